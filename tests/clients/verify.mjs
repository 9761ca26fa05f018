// Two users verify each other by emoji, with matrix-js-sdk's Rust crypto: node verify.mjs URL [URL OF THE OTHER]. Exit code 0 when all went as it should.
import assert from "node:assert/strict";
import { meet, signUp, start, until, untilTrue } from "./kit.mjs";

const [url, otherUrl = url] = process.argv.slice(2);

async function sign(client) {
    const crypto = client.getCrypto();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: async (makeRequest) => makeRequest(null) });
    assert.equal(await crypto.isCrossSigningReady(), true);
}

await signUp(url, "alice");
await signUp(otherUrl, "bob");
const alice = await start(url, "alice");
const bob = await start(otherUrl, "bob");
await sign(alice);
await sign(bob);
const roomId = await meet(alice, bob);
for (const [client, other] of [[alice, bob], [bob, alice]]) {
    await client.getCrypto().getUserDeviceInfo([other.getUserId()], true);
    assert.equal(await client.getCrypto().userHasCrossSigningKeys(other.getUserId(), true), true);
    assert.equal((await client.getCrypto().getUserVerificationStatus(other.getUserId())).isVerified(), false);
}

// The request goes through the room, encrypted; what follows too.
const asked = until(bob, "crypto.verificationRequestReceived", () => true);
const request = await alice.getCrypto().requestVerificationDM(bob.getUserId(), roomId);
const [incoming] = await asked;
const ready = until(request, "change", () => request.phase === 3 /* Ready */);
await incoming.accept();
await ready;
const verifierOfAlice = await request.startVerification("m.sas.v1");
if (!incoming.verifier) await until(incoming, "change", () => Boolean(incoming.verifier));
const verifierOfBob = incoming.verifier;
const shown = [verifierOfAlice, verifierOfBob].map((verifier) => {
    const known = verifier.getShowSasCallbacks();
    return known ? Promise.resolve([known]) : until(verifier, "show_sas", () => true);
});
const done = [verifierOfAlice.verify(), verifierOfBob.verify()];
const [[sasOfAlice], [sasOfBob]] = await Promise.all(shown);
assert.equal(sasOfAlice.sas.emoji.length, 7);
assert.deepEqual(sasOfAlice.sas.emoji, sasOfBob.sas.emoji);
await Promise.all([sasOfAlice.confirm(), sasOfBob.confirm()]);
await Promise.all(done);

// Each hears of the own signature from the server, and then trusts the other.
const trusts = (client, other) =>
    untilTrue(client, "userTrustStatusChanged", async () =>
        (await client.getCrypto().getUserVerificationStatus(other.getUserId())).isCrossSigningVerified());
await Promise.all([trusts(alice, bob), trusts(bob, alice)]);
// A server that did not keep the signatures would make a new device doubt.
const keys = await alice.downloadKeysForUsers([bob.getUserId()]);
const [master] = Object.values(keys.master_keys[bob.getUserId()].keys);
const signatures = keys.master_keys[bob.getUserId()].signatures;
assert.ok(master && Object.keys(signatures[alice.getUserId()]).length >= 1);

alice.stopClient();
bob.stopClient();
process.exit(0);

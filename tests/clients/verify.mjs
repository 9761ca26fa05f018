// Two users verify each other by emoji, with matrix-js-sdk's Rust crypto, on a running server or on two that federate: node verify.mjs URL, or URL NAME URL NAME of the two. Exit code 0 when all went as it should.
import assert from "node:assert/strict";
import { meet, start, until, untilTrue, users } from "./kit.mjs";

async function sign(client) {
    const crypto = client.getCrypto();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: async (makeRequest) => makeRequest(null) });
    assert.equal(await crypto.isCrossSigningReady(), true);
}

const [ofAlice, ofBob] = await users("alice", "bob");
const alice = await start(...ofAlice);
const bob = await start(...ofBob);
await sign(alice);
await sign(bob);
const roomId = await meet(alice, bob);
for (const [client, other] of [[alice, bob], [bob, alice]]) {
    await client.getCrypto().getUserDeviceInfo([other.getUserId()], true);
    assert.equal(await client.getCrypto().userHasCrossSigningKeys(other.getUserId(), true), true);
    assert.equal((await statusOf(client, other)).isVerified(), false);
}

// Where one does not confirm what is shown, neither trusts the other.
const refused = await compare();
const cancelled = until(refused.request, "change", () => refused.request.phase === 5 /* Cancelled */);
const failed = Promise.all(refused.done.map((done) => assert.rejects(done)));
await refused.incoming.cancel();
await failed;
await cancelled;
assert.equal(refused.request.cancellationCode, "m.user");
for (const [client, other] of [[alice, bob], [bob, alice]]) assert.equal((await statusOf(client, other)).isVerified(), false);

const confirmed = await compare();
assert.equal(confirmed.sasOfAlice.sas.emoji.length, 7);
assert.deepEqual(confirmed.sasOfAlice.sas.emoji, confirmed.sasOfBob.sas.emoji);
await Promise.all([confirmed.sasOfAlice.confirm(), confirmed.sasOfBob.confirm()]);
await Promise.all(confirmed.done);

// Each hears of the own signature from the server, and then trusts the other.
const trusts = (client, other) =>
    untilTrue(client, "userTrustStatusChanged", async () => (await statusOf(client, other)).isCrossSigningVerified());
await Promise.all([trusts(alice, bob), trusts(bob, alice)]);
// A server that did not keep the signatures would make a new device doubt.
const keys = await alice.downloadKeysForUsers([bob.getUserId()]);
const [master] = Object.values(keys.master_keys[bob.getUserId()].keys);
const signatures = keys.master_keys[bob.getUserId()].signatures;
assert.ok(master && Object.keys(signatures[alice.getUserId()]).length >= 1);

alice.stopClient();
bob.stopClient();
process.exit(0);

function statusOf(client, other) {
    return client.getCrypto().getUserVerificationStatus(other.getUserId());
}

/** Alice asks bob to verify her, through the room and encrypted; what follows goes there, too. What both are shown, and when it is done for each. */
async function compare() {
    const asked = until(bob, "crypto.verificationRequestReceived");
    const request = await alice.getCrypto().requestVerificationDM(bob.getUserId(), roomId);
    const [incoming] = await asked;
    const ready = until(request, "change", () => request.phase === 3 /* Ready */);
    await incoming.accept();
    await ready;
    const verifierOfAlice = await request.startVerification("m.sas.v1");
    if (!incoming.verifier) await until(incoming, "change", () => Boolean(incoming.verifier));
    const verifiers = [verifierOfAlice, incoming.verifier];
    const shown = verifiers.map((verifier) => {
        const known = verifier.getShowSasCallbacks();
        return known ? Promise.resolve([known]) : until(verifier, "show_sas");
    });
    const done = verifiers.map((verifier) => verifier.verify());
    const [[sasOfAlice], [sasOfBob]] = await Promise.all(shown);
    return { request, incoming, done, sasOfAlice, sasOfBob };
}

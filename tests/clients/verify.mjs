// Two users verify each other by emoji, with matrix-js-sdk's Rust crypto: node verify.mjs URL. Exit code 0 when all went as it should.
import assert from "node:assert/strict";
import * as sdk from "matrix-js-sdk";
import { logger } from "matrix-js-sdk/lib/logger.js";

logger.setLevel("error", false);
const url = process.argv[2];
const password = "password of the tests";

async function start(name, secrets = new Map()) {
    const identifier = { type: "m.id.user", user: name };
    const login = await sdk.createClient({ baseUrl: url }).login("m.login.password", { identifier, password });
    const client = sdk.createClient({
        baseUrl: url, userId: login.user_id, accessToken: login.access_token, deviceId: login.device_id,
        cryptoCallbacks: {
            getSecretStorageKey: async ({ keys }) => {
                const keyId = Object.keys(keys).find((id) => secrets.has(id));
                return keyId ? [keyId, secrets.get(keyId)] : null;
            },
            cacheSecretStorageKey: (keyId, _info, key) => secrets.set(keyId, key),
        },
    });
    await client.initRustCrypto({ useIndexedDB: false });
    const ready = until(client, "sync", (state) => state === "PREPARED");
    await client.startClient({ initialSyncLimit: 20 });
    await ready;
    return client;
}

function until(emitter, event, holds) {
    return new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no ${event} in time`)), 30000);
        const listen = (...args) => {
            if (!holds(...args)) return;
            clearTimeout(timer);
            emitter.off(event, listen);
            resolve(args);
        };
        emitter.on(event, listen);
    });
}

async function sign(client) {
    const crypto = client.getCrypto();
    await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: async (makeRequest) => makeRequest(null) });
    assert.equal(await crypto.isCrossSigningReady(), true);
}

const alice = await start("alice");
const bob = await start("bob");
await sign(alice);
await sign(bob);
const invited = until(bob, "Room.myMembership", (_room, membership) => membership === "invite");
const { room_id: roomId } = await alice.createRoom({
    invite: [bob.getUserId()], is_direct: true,
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
});
await invited;
const joined = until(alice, "RoomMember.membership", (_e, member) => member.userId === bob.getUserId() && member.membership === "join");
await bob.joinRoom(roomId);
await joined;
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
async function trusts(client, other) {
    for (;;) {
        const changed = until(client, "userTrustStatusChanged", () => true);
        const status = await client.getCrypto().getUserVerificationStatus(other.getUserId());
        if (status.isCrossSigningVerified()) {
            changed.catch(() => {});
            return;
        }
        await changed;
    }
}
await Promise.all([trusts(alice, bob), trusts(bob, alice)]);
// A server that did not keep the signatures would make a new device doubt.
const keys = await alice.downloadKeysForUsers([bob.getUserId()]);
const [master] = Object.values(keys.master_keys[bob.getUserId()].keys);
const signatures = keys.master_keys[bob.getUserId()].signatures;
assert.ok(master && Object.keys(signatures[alice.getUserId()]).length >= 1);

alice.stopClient();
bob.stopClient();
process.exit(0);

// matrix-js-sdk with its Rust crypto against a running server: node encrypt.mjs URL. Exit code 0 when all went as it should.
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

const reads = (client, body) =>
    until(client, "Event.decrypted", (event) => event.isEncrypted() && event.getContent().body === body);

// Encrypted messages, both ways.
const secrets = new Map();
const alice = await start("alice", secrets);
const bob = await start("bob");
const invited = until(bob, "Room.myMembership", (_room, membership) => membership === "invite");
const { room_id: roomId } = await alice.createRoom({
    invite: [bob.getUserId()], is_direct: true,
    initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
});
await invited;
const joined = until(alice, "RoomMember.membership", (_e, member) => member.userId === bob.getUserId() && member.membership === "join");
await bob.joinRoom(roomId);
await joined;
const first = reads(bob, "hello");
await alice.sendTextMessage(roomId, "hello");
await first;
const second = reads(alice, "and to you");
await bob.sendTextMessage(roomId, "and to you");
await second;

// Cross-signing, secret storage and a backup.
const crypto = alice.getCrypto();
await crypto.bootstrapCrossSigning({ authUploadDeviceSigningKeys: async (makeRequest) => makeRequest(null) });
await crypto.bootstrapSecretStorage({
    createSecretStorageKey: () => crypto.createRecoveryKeyFromPassphrase(),
    setupNewSecretStorage: true, setupNewKeyBackup: true,
});
assert.equal(await crypto.isCrossSigningReady(), true);
await crypto.checkKeyBackupAndEnable();
const seen = await bob.getCrypto().getUserDeviceInfo([alice.getUserId()], true);
assert.equal(seen.get(alice.getUserId()).has(alice.getDeviceId()), true);
const saved = until(alice, "crypto.keyBackupSessionsRemaining", (left) => left === 0);
const third = reads(bob, "for the backup");
await alice.sendTextMessage(roomId, "for the backup");
await third;
await saved;
assert.ok((await alice.getKeyBackupVersion()).count >= 1);
await alice.logout(true);

// A new device reads the old messages once it has restored the backup.
const again = await start("alice", secrets);
assert.equal(await again.getCrypto().userHasCrossSigningKeys(again.getUserId(), true), true);
await again.getCrypto().bootstrapCrossSigning({});
const info = await again.getKeyBackupVersion();
const restored = await again.restoreKeyBackupWithSecretStorage(info);
assert.equal(restored.imported, info.count);
const room = again.getRoom(roomId);
await again.scrollback(room, 30);
const old = room.getLiveTimeline().getEvents().filter((event) => event.isEncrypted());
const locked = old.filter((event) => event.getContent().msgtype !== "m.text");
for (const event of locked) await event.attemptDecryption(again.getCrypto(), { isRetry: true });
const bodies = old.map((event) => event.getContent().body);
assert.deepEqual(bodies, ["hello", "and to you", "for the backup"]);

again.stopClient();
bob.stopClient();
process.exit(0);

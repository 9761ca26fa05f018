// matrix-js-sdk with its Rust crypto on a running server, or on two that federate: node encrypt.mjs URL, or URL NAME URL NAME of those who talk. Exit code 0 when all went as it should.
import assert from "node:assert/strict";
import { setTimeout as pause } from "node:timers/promises";
import { meet, reads, start, untilTrue, users } from "./kit.mjs";

const [ofAlice, ofBob] = await users("alice", "bob");

// Encrypted messages, both ways.
const secrets = new Map();
const alice = await start(...ofAlice, secrets);
const bob = await start(...ofBob);
const roomId = await meet(alice, bob);
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
const third = reads(bob, "for the backup");
await alice.sendTextMessage(roomId, "for the backup");
await third;
// The client uploads keys when it likes: up to ten seconds after it has them, at once if chance will have it.
const isSaved = async () => (await alice.getKeyBackupVersion()).count === (await crypto.exportRoomKeys()).length;
while (!(await isSaved())) await pause(100);
await alice.logout(true);

// A new device reads the old messages once it has restored the backup, and not before.
const again = await start(...ofAlice, secrets);
assert.equal(await again.getCrypto().userHasCrossSigningKeys(again.getUserId(), true), true);
await again.getCrypto().bootstrapCrossSigning({});
const room = again.getRoom(roomId);
await again.scrollback(room, 30);
const old = room.getLiveTimeline().getEvents().filter((event) => event.isEncrypted());
await Promise.all(old.map((event) => event.getDecryptionPromise()));
assert.deepEqual(old.map((event) => event.isDecryptionFailure()), [true, true, true]);
const info = await again.getKeyBackupVersion();
const restored = await again.restoreKeyBackupWithSecretStorage(info);
assert.equal(restored.imported, info.count);
const locked = old.filter((event) => event.getContent().msgtype !== "m.text");
for (const event of locked) await event.attemptDecryption(again.getCrypto(), { isRetry: true });
const bodies = old.map((event) => event.getContent().body);
assert.deepEqual(bodies, ["hello", "and to you", "for the backup"]);

// Others learn of the new device and see that its owner signed it; what they say then, it reads.
const isSigned = () => bob.getCrypto().getDeviceVerificationStatus(again.getUserId(), again.getDeviceId());
await untilTrue(bob, "crypto.devicesUpdated", async () => (await isSigned())?.signedByOwner);
const fourth = reads(again, "to the new device");
await bob.sendTextMessage(roomId, "to the new device");
await fourth;
const fifth = reads(bob, "from the new device");
await again.sendTextMessage(roomId, "from the new device");
await fifth;

again.stopClient();
bob.stopClient();
process.exit(0);

// matrix-js-sdk's SlidingSync and its Rust crypto on a running server: MATRIX_JS_SDK=matrix-js-sdk-37 node sliding.mjs URL. Exit code 0 when all went as it should.
import assert from "node:assert/strict";
import { meet, reads, start, until, untilTrue, users } from "./kit.mjs";

const { SlidingSync, SlidingSyncEvent } = await import("matrix-js-sdk-37/lib/sliding-sync.js");
const state = [["m.room.create", ""], ["m.room.name", ""], ["m.room.encryption", ""], ["m.room.member", "$ME"], ["m.room.member", "$LAZY"]];

const [ofAlice, ofBob] = await users("alice", "bob");
let sliding;
const bob = await start(...ofBob);
const alice = await start(...ofAlice, new Map(), fetch, (client) => {
    const lists = new Map([["first", { ranges: [[0, 0]], timeline_limit: 1, required_state: state }]]);
    sliding = new SlidingSync(client.baseUrl, lists, { timeline_limit: 50, required_state: [["*", "*"]] }, client, 20000);
    return sliding;
});

// An old room with something in it, below the window of the list.
const old = await makeRoom("an old room");
for (let number = 0; number < 10; number++) await bob.sendTextMessage(old, `old ${number}`);

// Another room, on top: encrypted messages go both ways, so keys and messages to devices arrive.
const roomId = await meet(bob, alice);
await untilTrue(sliding, SlidingSyncEvent.Lifecycle, () => sliding.getListData("first").joinedCount === 2);
await untilTrue(alice, "event", () => alice.getRoom(roomId)?.hasEncryptionStateEvent());
const first = reads(alice, "hello");
await bob.sendTextMessage(roomId, "hello");
await first;
const second = reads(bob, "and to you");
await alice.sendTextMessage(roomId, "and to you");
await second;

// What belongs to the room and to the account.
const typing = until(alice, "RoomMember.typing", (_event, member) => member.userId === bob.getUserId() && member.typing);
await bob.sendTyping(roomId, true, 30000);
await typing;
const said = bob.getRoom(roomId).getLiveTimeline().getEvents().at(-1);
const read = until(alice, "Room.receipt", (event) => event.getContent()[said.getId()]?.["m.read"]?.[bob.getUserId()]);
await bob.sendReadReceipt(said);
await read;
const tagged = until(alice, "Room.tags", (event) => event.getContent().tags["m.favourite"]);
await alice.setRoomTag(roomId, "m.favourite", { order: 0.5 });
await tagged;
const stored = until(alice, "accountData", (event) => event.getType() === "org.example.setting");
await alice.setAccountDataRaw("org.example.setting", { value: 7 });
await stored;
assert.equal(alice.getAccountData("m.push_rules").getContent().global.override[0].rule_id, ".m.rule.master");

// A new device is news, and what is said then it reads as well.
const again = await start(...ofBob);
const isKnown = async () => (await alice.getCrypto().getUserDeviceInfo([bob.getUserId()])).get(bob.getUserId()).has(again.getDeviceId());
await untilTrue(alice, "crypto.devicesUpdated", isKnown);
const third = reads(again, "to both devices");
await alice.sendTextMessage(roomId, "to both devices");
await third;

// A room that is subscribed to comes with more than the list shows; and the list counts those below its window.
const came = until(sliding, SlidingSyncEvent.RoomData, (id, data) => id === old && data.timeline.length > 1);
sliding.modifyRoomSubscriptions(new Set([old]));
const [, data] = await came;
const bodies = data.timeline.map((event) => event.content.body).filter(Boolean);
assert.deepEqual(bodies, Array.from({ length: 10 }, (_, number) => `old ${number}`));
assert.ok(data.required_state.some((event) => event.type === "m.room.power_levels"));
assert.equal(alice.getRoom(old).name, "an old room");
const newest = await makeRoom("a third room");
await untilTrue(sliding, SlidingSyncEvent.Lifecycle, () => alice.getRoom(newest));
assert.equal(sliding.getListData("first").joinedCount, 3);

for (const client of [alice, bob, again]) client.stopClient();
process.exit(0);

/** A room of both, not encrypted. */
async function makeRoom(name) {
    const joined = until(bob, "RoomMember.membership", (_event, member) => member.userId === alice.getUserId() && member.membership === "join");
    const { room_id: id } = await bob.createRoom({ name, invite: [alice.getUserId()] });
    await untilTrue(alice, "Room", () => alice.getRoom(id));
    await alice.joinRoom(id);
    await joined;
    return id;
}

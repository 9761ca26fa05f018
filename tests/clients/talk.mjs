// matrix-js-sdk against a running server: node talk.mjs URL. Exit code 0 when all went as it should.
import assert from "node:assert/strict";
import * as sdk from "matrix-js-sdk";
import { password, signUp, until } from "./kit.mjs";

const url = process.argv[2];

function logIn(user, secret) {
    const identifier = { type: "m.id.user", user };
    return sdk.createClient({ baseUrl: url }).login("m.login.password", { identifier, password: secret });
}

async function start(name) {
    const login = await logIn(name, password);
    const client = sdk.createClient({
        baseUrl: url, userId: login.user_id, accessToken: login.access_token, deviceId: login.device_id });
    const ready = until(client, "sync", (state) => state === "PREPARED");
    await client.startClient({ initialSyncLimit: 10 });
    await ready;
    return client;
}

function signUpAtOnce(user) {
    return sdk.createClient({ baseUrl: url }).register(user, password, null, { type: "m.login.dummy" });
}

assert.equal(await sdk.createClient({ baseUrl: url }).isUsernameAvailable("alice"), true);
const aliceId = await signUp(url, "alice");
await signUp(url, "bob");
assert.equal(await sdk.createClient({ baseUrl: url }).isUsernameAvailable("alice"), false);
await assert.rejects(signUp(url, "alice"), (error) => error.errcode === "M_USER_IN_USE");
await assert.rejects(signUpAtOnce("Alice"), (error) => error.errcode === "M_USER_IN_USE");
await assert.rejects(signUpAtOnce("with space"), (error) => error.errcode === "M_INVALID_USERNAME");

const alice = await start("alice");
assert.equal(alice.getUserId(), aliceId);
const bob = await start("bob");

const invited = until(bob, "Room.myMembership", (_room, membership) => membership === "invite");
const { room_id: roomId } = await alice.createRoom({ name: "a room", invite: [bob.getUserId()] });
await invited;
const joined = until(bob, "Room.myMembership", (_room, membership) => membership === "join");
await bob.joinRoom(roomId);
await joined;

const heard = until(bob, "Room.timeline", (event) => event.getContent().body === "hello");
const { event_id: eventId } = await alice.sendTextMessage(roomId, "hello");
await heard;

const typing = until(bob, "RoomMember.typing", (_event, member) => member.userId === alice.getUserId());
await alice.sendTyping(roomId, true, 20000);
await typing;

const read = until(alice, "Room.receipt", () => true);
await bob.sendReadReceipt(bob.getRoom(roomId).findEventById(eventId));
await read;

await bob.scrollback(bob.getRoom(roomId), 30);
const types = bob.getRoom(roomId).getLiveTimeline().getEvents().map((event) => event.getType());
assert.ok(types.includes("m.room.message"));
assert.equal(bob.getRoom(roomId).name, "a room");

const redacted = until(bob, "Room.redaction", (event) => event.getAssociatedId() === eventId);
await alice.redactEvent(roomId, eventId);
await redacted;

const { content_uri: uri } = await alice.uploadContent("some words", { name: "words.txt", type: "text/plain" });
// The path that this version of the SDK knows is of before the endpoint was in the specification.
const file = await fetch(`${url}/_matrix/client/v1/media/download/${uri.slice("mxc://".length)}`, {
    headers: { Authorization: `Bearer ${bob.getAccessToken()}` } });
assert.equal(await file.text(), "some words");
assert.equal(file.headers.get("content-disposition"), 'inline; filename="words.txt"');

await assert.rejects(bob.setRoomName(roomId, "mine"), (error) => error.errcode === "M_FORBIDDEN");
for (const name of ["alice", "nobody"])
    await assert.rejects(logIn(name, "wrong"), (error) => error.errcode === "M_FORBIDDEN");

await bob.leave(roomId);
for (const client of [alice, bob]) {
    client.stopClient();
    await client.logout(true);
    await assert.rejects(client.whoami(), (error) => error.errcode === "M_UNKNOWN_TOKEN");
}
process.exit(0);

// All one-time keys of a device that is away are used up: matrix-js-sdk with its Rust crypto on a running server, or on two that federate: node fallback.mjs URL, or URL NAME URL NAME URL NAME of alice, bob, who is away, and carol. Exit code 0 when all went as it should.
import assert from "node:assert/strict";
import { makeGate, meet, reads, start, until, users } from "./kit.mjs";

const algorithm = "signed_curve25519";

const [ofAlice, ofBob, ofCarol] = await users("alice", "bob", "carol");
const gate = makeGate();
const alice = await start(...ofAlice);
const carol = await start(...ofCarol);
const bob = await start(...ofBob, new Map(), gate.fetch);
const roomId = await meet(alice, bob);
const carolJoined = until(alice, "RoomMember.membership", (_event, member) => member.userId === carol.getUserId() && member.membership === "join");
const invited = until(carol, "Room.myMembership", (_room, membership) => membership === "invite");
await alice.invite(roomId, carol.getUserId());
await invited;
await carol.joinRoom(roomId);
await carolJoined;
await keysAre((told) => told.count > 1 && told.unused.includes(algorithm));

// The device is away; somebody claims its keys until there is but the fallback key, which is given again and again.
gate.close();
const given = new Set();
let fallback;
while (!fallback) {
    const claimed = await claim(alice);
    assert.equal(given.has(claimed.key), false, "a one-time key was given twice");
    given.add(claimed.key);
    if (claimed.fallback) fallback = claimed;
}
assert.ok(given.size > 2);
for (const client of [carol, alice, carol]) assert.deepEqual(await claim(client), fallback);
await keysAre((told) => told.count === 0 && told.unused.length === 0);

// Both can still begin to talk with it, by the fallback key, before it comes back.
const fromAlice = reads(bob, "from alice");
const fromCarol = reads(bob, "from carol");
await alice.sendTextMessage(roomId, "from alice");
await carol.sendTextMessage(roomId, "from carol");
gate.open();
await fromAlice;
await fromCarol;

// It has made itself new one-time keys; a new fallback key comes a week after the old one. What is claimed from now on is new.
await keysAre((told) => told.count > 1);
const now = Date.now;
Date.now = () => now() + 8 * 24 * 3600 * 1000;
const wake = reads(bob, "wake up");
await alice.sendTextMessage(roomId, "wake up");
await wake;
await keysAre((told) => told.count > 1 && told.unused.includes(algorithm));
const fresh = await claim(alice);
assert.ok(!given.has(fresh.key) && !fresh.fallback);
const again = reads(alice, "here I am");
await bob.sendTextMessage(roomId, "here I am");
await again;

for (const client of [alice, bob, carol]) client.stopClient();
process.exit(0);

/** A key of bob's device. */
async function claim(client) {
    const answer = await call(client, "POST", "/v3/keys/claim", { one_time_keys: { [bob.getUserId()]: { [bob.getDeviceId()]: algorithm } } });
    return Object.values(answer.one_time_keys[bob.getUserId()][bob.getDeviceId()])[0];
}

/** Until all ways to sync tell bob's device such a state of its keys; they say the same. */
async function keysAre(holds) {
    let told;
    for (const end = Date.now() + 90000; Date.now() < end; ) {
        told = await toldByBoth();
        if (told && holds(told)) return;
        await new Promise((resolve) => setTimeout(resolve, 200));
    }
    throw new Error(`the keys are ${JSON.stringify(told)}`);
}

/** Null while they change. */
async function toldByBoth() {
    const sync = await call(bob, "GET", "/v3/sync?timeout=0");
    const sliding = await call(bob, "POST", "/unstable/org.matrix.simplified_msc3575/sync", { extensions: { e2ee: { enabled: true } } });
    const after = await call(bob, "GET", "/v3/sync?timeout=0");
    const [one, two, three] = [sync, sliding.extensions.e2ee, after].map((answer) => ({
        count: answer.device_one_time_keys_count[algorithm] ?? 0, unused: answer.device_unused_fallback_key_types,
    }));
    if (JSON.stringify(one) !== JSON.stringify(three)) return null;
    assert.deepEqual(two, one);
    return one;
}

/** Past the gate, and past the client. */
async function call(client, method, path, body) {
    const headers = { Authorization: `Bearer ${client.getAccessToken()}`, "Content-Type": "application/json" };
    const answer = await fetch(`${client.baseUrl}/_matrix/client${path}`, { method, headers, body: body && JSON.stringify(body) });
    const json = await answer.json();
    assert.equal(answer.status, 200, JSON.stringify(json));
    return json;
}

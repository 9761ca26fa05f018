// What the stories share: users of matrix-js-sdk with its Rust crypto, and waiting for what they see.
import { setTimeout as pause } from "node:timers/promises";

const TIMEOUT_MS = 90_000;
// Of the two versions that are installed a process can have one: that which $MATRIX_JS_SDK names.
const version = process.env.MATRIX_JS_SDK ?? "matrix-js-sdk";
export const sdk = await import(version);
const { logger } = await import(`${version}/lib/logger.js`);

logger.setLevel("error", false);
export const password = "password of the tests";

/** Makes the user's account and logs it out again, as a client does that asks first what the server wants. */
export async function signUp(baseUrl, name) {
    const client = sdk.createClient({ baseUrl });
    const asked = await client.register(name, password, null, {}).then(() => null, (error) => error);
    if (asked?.httpStatus !== 401) throw asked ?? new Error("nothing was asked for");
    const { session, flows } = asked.data;
    if (!flows.some(({ stages }) => stages.join() === "m.login.dummy")) throw new Error(JSON.stringify(flows));
    const made = await client.register(name, password, session, { type: "m.login.dummy" });
    await sdk.createClient({ baseUrl, userId: made.user_id, accessToken: made.access_token }).logout();
    return made.user_id;
}

/** The users of a story, as `start` takes them: new ones of these names, on the server whose URL is on the command line; or those that are there, as URL NAME URL NAME …, who have accounts. */
export async function users(...names) {
    const given = process.argv.slice(2);
    if (given.length > 1) return names.map((_name, at) => given.slice(2 * at, 2 * at + 2));
    for (const name of names) await signUp(given[0], name);
    return names.map((name) => [given[0], name]);
}

/** A new device of the user; secrets: the keys of their secret storage, by key id, which the devices of a user may share; makeSync: makes a SlidingSync for the client. */
export async function start(baseUrl, name, secrets = new Map(), fetchFn = fetch, makeSync = () => undefined) {
    const identifier = { type: "m.id.user", user: name };
    const login = await sdk.createClient({ baseUrl }).login("m.login.password", { identifier, password });
    const client = sdk.createClient({
        baseUrl, userId: login.user_id, accessToken: login.access_token, deviceId: login.device_id, fetchFn,
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
    await client.startClient({ initialSyncLimit: 20, slidingSync: makeSync(client) });
    await ready;
    return client;
}

/** A client's way to the server: while it is closed nothing comes through, in either direction. */
export function makeGate() {
    let opened = Promise.resolve();
    let open = () => {};
    return {
        close: () => { opened = new Promise((resolve) => { open = resolve; }); },
        open: () => open(),
        fetch: async (...request) => {
            await opened;
            const answer = await fetch(...request);
            await opened;
            return answer;
        },
    };
}

/** The next such event's arguments. */
export function until(emitter, event, holds = () => true, what = event) {
    return new Promise((resolve, reject) => {
        const timer = setTimeout(() => reject(new Error(`no ${what} in time`)), TIMEOUT_MS);
        const listen = (...args) => {
            if (!holds(...args)) return;
            clearTimeout(timer);
            emitter.off(event, listen);
            resolve(args);
        };
        emitter.on(event, listen);
    });
}

/** Until `holds` gives something; it is asked again after each such event. */
export async function untilTrue(emitter, event, holds) {
    for (;;) {
        const changed = until(emitter, event);
        const found = await holds();
        if (found) {
            changed.catch(() => {});
            return found;
        }
        await changed;
    }
}

/** Until the client has decrypted such a message, one more than it has now. It is looked for: of the first message of a room the client
 * was seen to emit no "Event.decrypted". */
export async function reads(client, body) {
    const events = () => client.getRooms().flatMap((room) => room.getLiveTimeline().getEvents());
    const found = () => events().filter((event) => event.isEncrypted() && event.getContent().body === body);
    const known = new Set(found().map((event) => event.getId()));
    const deadline = Date.now() + TIMEOUT_MS;
    while (found().every((event) => known.has(event.getId()))) {
        if (Date.now() > deadline) {
            const told = events().map((event) => `${event.getType()} ${event.getContent().body ?? ""} ${event.status ?? ""}`);
            throw new Error(`no "${body}" in time; there are: ${told.join(", ")}`);
        }
        await pause(50);
    }
}

/** An encrypted room of the two, which the other has joined; its id. */
export async function meet(client, other) {
    const isOther = (_event, member) => member.userId === other.getUserId() && member.membership === "join";
    const invited = until(other, "Room.myMembership", (_room, membership) => membership === "invite");
    const joined = until(client, "RoomMember.membership", isOther);
    const { room_id: roomId } = await client.createRoom({
        invite: [other.getUserId()], is_direct: true,
        initial_state: [{ type: "m.room.encryption", state_key: "", content: { algorithm: "m.megolm.v1.aes-sha2" } }],
    });
    await invited;
    await other.joinRoom(roomId);
    await joined;
    return roomId;
}

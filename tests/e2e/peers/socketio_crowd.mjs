// Many clients of Socket.IO that speak as long as they are connected, and come back: ADDRESS and PORT of the server, its host, {polling, upgrading, every}:
// so many that stay with long-polling, so many that begin with it and upgrade, a message of each every so many milliseconds.
// For every line that it is given it prints `state N JSON`, the Nth: each session of each client, and who was refused. After the line `quiet` nobody
// speaks any more.
import { createRequire } from "node:module";
import { Agent } from "node:http";
import { createInterface } from "node:readline";
const { io } = createRequire(process.env.NODE_MODULES + "/")("socket.io-client");

const [address, port, host, json] = process.argv.slice(2);
const scenario = JSON.parse(json);
const state = { sessions: [], refused: {} };
let quiet = false;

// A new connection for each request, as clients on several connections would: so each of them may go to any replica.
const lookup = (_, { all }, done) => (all ? done(null, [{ address, family: 4 }]) : done(null, address, 4));
const agent = new Agent({ keepAlive: false, lookup });

// What a browser keeps. The client's own jar would be forgotten with each session.
class Jar {
  #cookies = new Map();
  parseCookies(fields) {
    for (const field of fields ?? []) {
      const [, name, value] = field.match(/^([^=;]+)=([^;]*)/);
      this.#cookies.set(name, value);
    }
  }
  // They are in `extraHeaders`, for WebSockets as well.
  addCookies() {}
  toString() {
    return [...this.#cookies].map((pair) => pair.join("=")).join("; ");
  }
}

function live(client, transports) {
  const cookieJar = new Jar();
  const extraHeaders = { get cookie() { return String(cookieJar); } };
  const again = { reconnectionDelay: 100, reconnectionDelayMax: 500, timeout: 20000 };
  const socket = io(`http://${host}:${port}`, { transports, agent, cookieJar, extraHeaders, forceNew: true, ...again });
  let session, speaker;
  socket.io.on("open", () => {
    const engine = socket.io.engine;
    const mine = { client, session: engine.id, began: Date.now(), transport: engine.transport.name, sent: 0, echoed: 0, wrong: 0, servers: [], through: [] };
    engine.on("upgrade", (transport) => (mine.transport = transport.name));
    state.sessions.push((session = mine));
  });
  socket.io.on("close", (reason, details) => {
    clearInterval(speaker);
    Object.assign(session, { ended: Date.now(), reason, said: details?.context?.responseText ?? details?.description?.message ?? "" });
  });
  socket.on("connect", () => (speaker = setInterval(() => !quiet && say(session), scenario.every)));
  function say(session) {
    const text = `message ${session.sent++}`;
    socket.emit("say", text, (answer) => {
      if (answer.text !== `message ${session.echoed++}`) session.wrong++;
      if (!session.servers.includes(answer.server)) session.servers.push(answer.server);
      session.through = answer.through;
    });
  }
  socket.on("connect_error", (error) => {
    const why = `${error.message}: ${error.description ?? ""} ${error.context?.responseText ?? ""}`;
    state.refused[why] = (state.refused[why] ?? 0) + 1;
  });
}

for (let i = 0; i < scenario.polling; i++) live(`polling ${i}`, ["polling"]);
for (let i = 0; i < scenario.upgrading; i++) live(`upgrading ${i}`, ["polling", "websocket"]);

let asked = 0;
for await (const line of createInterface({ input: process.stdin })) {
  quiet ||= line === "quiet";
  console.log(`state ${++asked} ${JSON.stringify(state)}`);
}
process.exit(0);

// Clients of Socket.IO that come by long-polling and speak while they are told to: URL, path of the server, {clients, messages, upgrade: bool}.
// Prints what became of them: how many upgraded, who answered, what failed.
import { createRequire } from "node:module";
const { io } = createRequire(process.env.NODE_MODULES + "/")("socket.io-client");

const [url, path, json] = process.argv.slice(2);
const scenario = JSON.parse(json);
const seen = { upgraded: 0, servers: {}, moved: 0, failed: [] };

async function client() {
  const transports = scenario.upgrade ? ["polling", "websocket"] : ["polling"];
  // A browser keeps cookies; here it is asked for.
  const socket = io(url, { path, transports, withCredentials: true, forceNew: true, reconnection: false, timeout: 20000 });
  try {
    await new Promise((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("connect_error", (error) => reject(new Error(`${error.message}: ${error.context?.responseText ?? ""}`)));
    });
    const gone = new Promise((_, reject) => socket.once("disconnect", (reason, details) => reject(new Error(`${reason} ${details?.context?.responseText ?? ""}`))));
    gone.catch(() => {});
    const engine = socket.io.engine;
    const upgraded = engine.transport.name === "websocket" ? Promise.resolve() : new Promise((resolve) => engine.once("upgrade", resolve));
    const home = new Set();
    for (let number = 0; number < scenario.messages; number++) {
      const answer = await Promise.race([socket.timeout(20000).emitWithAck("say", `message ${number}`), gone]);
      if (answer.text !== `message ${number}`) throw new Error(`another answer: ${answer.text}`);
      home.add(answer.server);
    }
    if (home.size !== 1) seen.moved++;
    for (const server of home) seen.servers[server] = (seen.servers[server] ?? 0) + 1;
    if (scenario.upgrade) {
      await Promise.race([upgraded, gone]);
      await Promise.race([socket.timeout(20000).emitWithAck("say", "over the socket"), gone]);
      if (engine.transport.name === "websocket") seen.upgraded++;
    }
  } catch (error) {
    seen.failed.push(error.message);
  } finally {
    socket.disconnect();
  }
}

await Promise.all(Array.from({ length: scenario.clients }, client));
console.log(JSON.stringify(seen));
process.exit(0);

// The server of a pod, on port 8080 or that of PORT: Socket.IO, which knows its own sessions alone, and beside it an echo whose handshakes
// fail with 500 between POST /fail and POST /succeed. Told to end by SIGTERM it serves on, until POST /end ends every session and itself. A session's
// name begins with the name of the pod.
// Prints, as JSON with the time, that it no longer serves (`ended`), and each request of a session that it does not know (`unknown`).
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { hostname } from "node:os";
const require = createRequire(process.env.NODE_MODULES + "/");
const { Server } = require("socket.io");
const { WebSocketServer } = require("ws");

const print = (what, more) => console.log(JSON.stringify({ at: Date.now(), what, ...more }));

let failing = false, ending = false;
const orders = {
  "/fail": () => (failing = true),
  "/succeed": () => (failing = false),
  "/end": () => {
    ending = true;
    print("ended");
    io.close(() => process.exit(0));
  },
};
const server = createServer((request, answer) => {
  answer.setHeader("Server", hostname()).end(`${hostname()}\n`);
  if (request.method === "POST") answer.once("finish", orders[request.url]);
});

const io = new Server(server, { destroyUpgrade: false });
const through = new Map(); // session -> addresses of those who brought its requests
let sessions = 0;
io.engine.generateId = () => {
  const session = `${hostname()}.${process.pid}.${++sessions}`;
  through.set(session, new Set());
  return session;
};
io.engine.on("connection_error", ({ code, req, context }) => {
  if (code === 1) print("unknown", { session: context.sid, transport: req._query.transport });
});
io.on("connection", (socket) => {
  const session = socket.conn.id;
  socket.on("say", (text, answer) => answer({ server: hostname(), text, through: [...(through.get(session) ?? [])] }));
  socket.on("disconnect", () => through.delete(session));
});
server.prependListener("request", (request, answer) => {
  const session = new URL(request.url, "http://pod").searchParams.get("sid");
  through.get(session)?.add(request.socket.remoteAddress.replace("::ffff:", ""));
  // Else a client's connection that was busy at the end could go on for ever.
  if (ending) answer.setHeader("Connection", "close");
});

const echo = new WebSocketServer({ noServer: true });
echo.on("headers", (fields) => fields.push(`Server: ${hostname()}`));
echo.on("connection", (socket) => socket.on("message", (data, binary) => socket.send(data, { binary })).on("error", () => {}));
server.on("upgrade", (request, socket, head) => {
  if (request.url.startsWith("/socket.io/")) return;
  if (failing) return socket.end("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
  echo.handleUpgrade(request, socket, head, (socket) => echo.emit("connection", socket));
});

process.on("SIGTERM", () => {});
server.listen(Number(process.env.PORT ?? 8080), () => console.log(`port ${server.address().port}`));

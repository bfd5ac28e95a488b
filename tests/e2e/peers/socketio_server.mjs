// Three Socket.IO servers that know nothing of each other: a request of one's session that reaches another is answered "Session ID unknown".
import { createRequire } from "node:module";
import { createServer } from "node:http";
const { Server } = createRequire(process.env.NODE_MODULES + "/")("socket.io");

const ports = [];
for (const number of [0, 1, 2]) {
  const server = createServer();
  new Server(server).on("connection", (socket) => socket.on("say", (text, answer) => answer({ server: number, text })));
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  ports.push(server.address().port);
}
console.log(`ports ${ports.join(" ")}`);

// An echo server on a free port, by the `ws` package. `close:CODE:REASON` makes it close, `fragments` makes it answer in three frames.
import { createRequire } from "node:module";
import { createServer } from "node:http";
const { WebSocketServer } = createRequire(process.env.NODE_MODULES + "/")("ws");

const http = createServer((_, answer) => answer.end("node\n"));
const server = new WebSocketServer({ server: http, perMessageDeflate: { threshold: 0 }, maxPayload: 64 << 20, handleProtocols: (offers) => [...offers][0] });
server.on("connection", (socket) => {
  socket.on("message", (data, binary) => {
    const text = binary ? "" : data.toString();
    const close = text.match(/^close:(\d+):(.*)$/);
    if (close) return socket.close(Number(close[1]), close[2]);
    if (text === "fragments") {
      socket.send("one ", { fin: false });
      socket.ping("between");
      socket.send("two ", { fin: false });
      return socket.send("three", { fin: true });
    }
    socket.send(data, { binary });
  });
  socket.on("error", () => {});
});
http.listen(0, "127.0.0.1", () => console.log(`port ${http.address().port}`));
process.on("SIGTERM", () => process.exit(0));

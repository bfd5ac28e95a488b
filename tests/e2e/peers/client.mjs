// One connection by the `ws` package: sends what the scenario lists and prints what came back.
//   {deflate: bool, protocols: [..], send: [{text} | {bytes: N} | {fragments: [..]}], expect: N messages, close: {code, reason} | null}
import { createRequire } from "node:module";
const WebSocket = createRequire(process.env.NODE_MODULES + "/")("ws");

const [url, json] = process.argv.slice(2);
const scenario = JSON.parse(json);
const seen = { messages: [], extensions: null, protocol: null, close: null };
const socket = new WebSocket(url, scenario.protocols ?? [], { perMessageDeflate: scenario.deflate ?? false, maxPayload: 64 << 20 });
socket.on("open", () => {
  seen.extensions = socket.extensions;
  seen.protocol = socket.protocol;
  for (const message of scenario.send) {
    if (message.bytes !== undefined) socket.send(Buffer.alloc(message.bytes, 7));
    else if (message.fragments) message.fragments.forEach((part, i) => socket.send(part, { fin: i === message.fragments.length - 1 }));
    else socket.send(message.text);
  }
});
socket.on("message", (data, binary) => {
  seen.messages.push(binary ? { bytes: data.length, same: data.every((byte) => byte === 7) } : { text: data.toString() });
  if (seen.messages.length === scenario.expect && scenario.close) socket.close(scenario.close.code, scenario.close.reason);
});
socket.on("close", (code, reason) => {
  seen.close = { code, reason: reason.toString() };
  console.log(JSON.stringify(seen));
});
socket.on("error", (error) => { console.error(error); process.exit(1); });

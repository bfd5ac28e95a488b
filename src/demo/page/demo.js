"use strict";

// What the servers speak with this page: {"server"} as a greeting, then {"server", "text"}; see src/demo/server.rs.
const SUBPROTOCOL = "demo.carrick.dev";
const BACKOFF = { first: 250, most: 8000 };
const KEPT_LINES = 200;

/** One socket on the page: its messages, which server answers, and how it comes back. */
class Panel {
  constructor(path, kind, placeholder) {
    this.path = path;
    this.failures = 0;
    const section = document.querySelector("template").content.cloneNode(true).firstElementChild;
    this.section = section;
    this.state = section.querySelector(".state");
    this.lines = section.querySelector("ol");
    this.input = section.querySelector("input");
    this.buttons = section.querySelectorAll("button");
    section.id = path.slice(1);
    section.querySelector("code").textContent = path;
    section.querySelector("small").textContent = kind;
    this.input.placeholder = placeholder;
    this.input.ariaLabel = `Message for ${path}`;
    section.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      this.send({ text: this.input.value });
      this.input.value = "";
    };
    for (const button of section.querySelectorAll(".ends button")) {
      button.onclick = () => this.send({ do: button.value });
    }
    document.querySelector("main").append(section);
    this.connect();
  }

  connect() {
    this.show("connecting", "connecting…");
    const socket = new WebSocket(new URL(this.path, location.href.replace(/^http/, "ws")), SUBPROTOCOL);
    socket.onmessage = ({ data }) => this.hear(JSON.parse(data));
    socket.onclose = (close) => this.comeBack(close);
    this.socket = socket;
  }

  hear({ server, text }) {
    if (text !== undefined) {
      return this.line(text, { server });
    }
    // The greeting: only now is the socket known to work.
    this.failures = 0;
    this.section.dataset.server = server;
    this.show("open", server);
    this.line(`connected to ${server}`, { kind: "event" });
  }

  comeBack({ code, reason }) {
    const wait = Math.min(BACKOFF.most, BACKOFF.first * 2 ** this.failures++);
    // Between half and all of it, so that a thousand pages do not return at once.
    const jittered = wait * (0.5 + Math.random() / 2);
    delete this.section.dataset.server;
    this.show("waiting", `closed with ${code}`);
    this.line(`closed with ${code}${reason && `: ${reason}`}; back in ${(jittered / 1000).toFixed(1)} s`, { kind: "closed" });
    setTimeout(() => this.connect(), jittered);
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) {
      this.socket.send(JSON.stringify(message));
    }
  }

  show(state, text) {
    this.section.dataset.state = state;
    this.state.textContent = text;
    for (const button of this.buttons) {
      button.disabled = state !== "open";
    }
  }

  line(text, { server, kind = "message" }) {
    const line = document.createElement("li");
    line.className = kind;
    if (server) {
      line.dataset.server = server;
      line.append(Object.assign(document.createElement("b"), { textContent: server }));
    }
    line.append(text);
    this.lines.append(line);
    if (this.lines.childElementCount > KEPT_LINES) {
      this.lines.firstElementChild.remove();
    }
    this.lines.scrollTop = this.lines.scrollHeight;
  }
}

const app = new Panel("/wsapp", "echoes to you", "Say something, it comes back");
new Panel("/wschat", "a room for every server", "Say something to everybody");

// One message by itself, so that a page just opened shows a round trip.
app.socket.addEventListener("open", () => app.send({ text: "hello" }));

// The WebSocket of one session: it comes back by itself and goes on behind the last event that was seen.

const FIRST_WAIT_MS = 500;
const MAX_WAIT_MS = 15_000;
const PING_MS = 20_000;
const SILENCE_MS = 45_000;

// Close codes after which trying again is of no use.
const FINAL = {
  4401: "You are logged out. Load the page again to log in.",
  4403: "The server refused this page.",
  4404: "This conversation is gone.",
};

export class Connection {
  constructor(url, after, { onEvent, onState }) {
    this.url = url;
    this.after = after;
    this.onEvent = onEvent;
    this.onState = onState;
    this.tries = 0;
    this.open();
    addEventListener("online", () => this.openNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.openNow());
    setInterval(() => this.checkPulse(), PING_MS);
  }

  get isLive() {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  open() {
    this.onState("connecting");
    const url = new URL(this.url, location.href);
    url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    if (this.after) url.searchParams.set("after", this.after);
    const socket = (this.socket = new WebSocket(url));
    socket.addEventListener("open", () => {
      this.heard = Date.now();
      this.onState("live");
    });
    socket.addEventListener("message", ({ data }) => socket === this.socket && this.take(JSON.parse(data)));
    socket.addEventListener("close", ({ code }) => socket === this.socket && this.lost(code));
  }

  take(event) {
    this.heard = Date.now();
    this.tries = 0;
    if (event.id) this.after = event.id;
    this.onEvent(event);
  }

  lost(code) {
    if (FINAL[code]) return this.onState("closed", FINAL[code]);
    this.onState("offline");
    const wait = Math.min(FIRST_WAIT_MS * 2 ** this.tries++, MAX_WAIT_MS) * (0.5 + Math.random());
    this.timer = setTimeout(() => this.open(), wait);
  }

  openNow() {
    if (this.socket.readyState !== WebSocket.CLOSED || !this.timer) return;
    clearTimeout(this.timer);
    this.open();
  }

  // A connection can be dead without a close: ask, and give it up when nothing comes back.
  checkPulse() {
    if (!this.isLive) return;
    if (Date.now() - this.heard > SILENCE_MS) return this.drop();
    this.send({ type: "ping" });
  }

  drop() {
    const dead = this.socket;
    this.lost(0);
    this.socket = { readyState: WebSocket.CLOSED };
    dead.close();
  }

  send(frame) {
    if (!this.isLive) return false;
    this.socket.send(JSON.stringify(frame));
    return true;
  }
}

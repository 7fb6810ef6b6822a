// The messages of a session that the server has not confirmed. They outlive a reload, as a draft does. By its key the
// server knows a message that comes again.

// `crypto.randomUUID` is missing where a page is not secure, such as by plain http in a local network.
function newKey() {
  if (crypto.randomUUID) return crypto.randomUUID();
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class Outbox {
  constructor(sessionId) {
    this.place = `unconfirmed:${sessionId}`;
    this.messages = new Map(JSON.parse(sessionStorage.getItem(this.place) ?? "[]")); // key -> text, in order
    this.refused = null;
  }

  // A refusal may hide that the message had arrived: if it is sent again as it was, it is the same message.
  add(text) {
    const key = this.refused?.text === text ? this.refused.key : newKey();
    this.refused = null;
    this.messages.set(key, text);
    this.save();
    return key;
  }

  confirm(key) {
    if (this.messages.delete(key)) this.save();
  }

  // The server answers in order, so what it refuses is the oldest.
  refuse() {
    const [oldest] = this.messages;
    if (!oldest) return null;
    const [key, text] = oldest;
    this.confirm(key);
    this.refused = { key, text };
    return this.refused;
  }

  save() {
    if (this.messages.size) sessionStorage.setItem(this.place, JSON.stringify([...this.messages]));
    else sessionStorage.removeItem(this.place);
  }
}

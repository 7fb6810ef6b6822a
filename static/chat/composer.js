// The message box: grows with its text, keeps a draft, sends on Enter.

const TYPING_MS = 5000;
const PAUSE_MS = 600; // after which what stands in the box may be the message

export class Composer {
  constructor(draftKey, { onSend, onStop, onTyping }) {
    this.form = document.getElementById("composer");
    this.box = document.getElementById("message");
    this.stop = document.getElementById("stop");
    this.alert = document.getElementById("alert");
    this.draftKey = `draft:${draftKey}`;
    this.onSend = onSend;
    this.onStop = onStop;
    this.onTyping = onTyping;
    this.typedAt = -Infinity;
    this.box.value = sessionStorage.getItem(this.draftKey) ?? "";
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.box.addEventListener("input", () => this.typed());
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.stop.addEventListener("click", () => this.askToStop());
    this.changed();
  }

  key(event) {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "Escape" && !this.stop.hidden) {
      this.askToStop();
    }
  }

  async submit() {
    clearTimeout(this.pause);
    const text = this.box.value;
    if (!text.trim() || this.isBusy) return;
    this.isBusy = true;
    this.complain("");
    try {
      await this.onSend(text);
      this.put("");
    } catch (error) {
      this.complain(error.message);
    } finally {
      this.isBusy = false;
    }
  }

  put(text) {
    this.box.value = text;
    this.changed();
  }

  // A text that was refused: it stands behind what has been written since.
  offer(text) {
    this.put([this.box.value, text].filter(Boolean).join("\n\n"));
  }

  // A hint that a message is on its way, so that the workers prepare; not with every key.
  typed() {
    this.changed();
    clearTimeout(this.pause);
    this.pause = setTimeout(() => this.box.value.trim() && this.onTyping(this.box.value), PAUSE_MS);
    if (performance.now() - this.typedAt < TYPING_MS) return;
    this.typedAt = performance.now();
    this.onTyping("");
  }

  changed() {
    sessionStorage.setItem(this.draftKey, this.box.value);
    this.box.rows = Math.min(10, Math.max(1, this.box.value.split("\n").length));
  }

  askToStop() {
    this.stop.disabled = true;
    this.stop.textContent = "Stopping …";
    this.onStop();
  }

  setActive(isActive) {
    this.stop.hidden = !isActive;
    this.stop.disabled = false;
    this.stop.textContent = "Stop";
  }

  complain(message) {
    this.alert.textContent = message;
    this.alert.hidden = !message;
  }

  // This complaint, if it stands there, is no longer true.
  withdraw(message) {
    if (this.alert.textContent === message) this.complain("");
  }
}

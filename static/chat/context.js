// The meter of the context: how full it is, and, when it is opened, what the model would be sent now.

import { readContext, revertSummary } from "./api.js";
import { markSummaries } from "./conversation.js";

const NAMES = {
  system: "System prompt",
  tools: "Tools",
  pinned: "Pinned messages",
  summary: "Summaries",
  recent: "Newest messages",
  excerpts: "Excerpts",
  turn: "Your message",
};
const meter = document.getElementById("context");
const dialog = document.getElementById("context-dialog");
const clone = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
const number = (value) => value.toLocaleString("en");

const turnsOf = ({ first_turn: first, last_turn: last }) => (first === last ? `turn ${first}` : `turns ${first}–${last}`);

export class ContextMeter {
  constructor(sessionId, { draft, complain }) {
    this.sessionId = sessionId;
    this.draft = draft;
    this.complain = complain;
    meter.hidden = false;
    meter.addEventListener("click", () => this.open());
    this.refresh();
  }

  // After each turn; a meter that cannot be read says nothing.
  async refresh() {
    try {
      this.show(await readContext(this.sessionId, ""));
    } catch {
      meter.textContent = "Context";
    }
  }

  async open() {
    try {
      const context = await readContext(this.sessionId, this.draft());
      this.show(context);
      this.fill(context);
      if (!dialog.open) dialog.showModal();
    } catch (error) {
      this.complain(error.message);
    }
  }

  show({ tokens, limit, reserve }) {
    const share = Math.min(100, Math.round((100 * tokens) / (limit - reserve)));
    meter.textContent = `Context ${share}%`;
    meter.style.setProperty("--used", `${share}%`);
  }

  fill({ tokens, limit, reserve, strategy, parts, left_out: leftOut, notes }) {
    const room = limit - reserve;
    dialog.querySelector(".context-sum").textContent =
      `${number(tokens)} of ${number(room)} tokens, by the strategy ${strategy.replaceAll("_", " ")}.`;
    const left = leftOut.messages ? `${number(leftOut.messages)} messages are left out (${number(leftOut.tokens)} tokens).` : "Nothing is left out.";
    dialog.querySelector(".context-left").textContent = [left, ...notes].join(" ");
    dialog.querySelector(".context-parts").replaceChildren(...parts.map((part) => this.part(part, room)));
  }

  part({ part, tokens, why, items }, room) {
    const row = clone("t-context-part");
    row.querySelector(".part-name").textContent = NAMES[part] ?? part;
    row.querySelector(".part-tokens").textContent = number(tokens);
    row.querySelector(".part-why").textContent = why;
    row.style.setProperty("--used", `${Math.min(100, (100 * tokens) / room)}%`);
    row.querySelector(".part-items").append(...items.map((item) => this.item(item)));
    return row;
  }

  item(item) {
    const row = clone("t-context-item");
    const about = item.summary_id
      ? `${turnsOf(item)}, ${number(item.tokens_before)} → ${number(item.tokens)} tokens`
      : [item.role, item.date.slice(0, 10), `${item.tokens} tokens`, item.why].filter(Boolean).join(" · ");
    row.querySelector(".item-about").textContent = about;
    row.querySelector(".item-text").textContent = item.text;
    const revert = row.querySelector(".revert");
    revert.hidden = !item.summary_id;
    revert.addEventListener("click", async () => {
      revert.disabled = true;
      try {
        const reverted = await revertSummary(this.sessionId, item.summary_id);
        markSummaries(reverted.map((each) => each.summary_id), true);
        await this.open();
      } catch (error) {
        dialog.close();
        this.complain(error.message);
      }
    });
    return row;
  }
}

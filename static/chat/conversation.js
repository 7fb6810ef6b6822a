// The list of messages: what the server rendered, and what the events add to it.

import { loadHistory } from "./api.js";
import { render } from "./markdown.js";

const list = document.getElementById("messages");
const scroll = document.getElementById("scroll");
const jump = document.getElementById("jump");
const earlier = document.getElementById("earlier");
const RENDER_MS = 100;

const clone = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
const show = (element, text) => {
  element.textContent = text;
  element.hidden = !text;
};
const asText = (value) => (typeof value === "string" ? value : JSON.stringify(value, null, 2));

// --- rows -----------------------------------------------------------------------------------------------------------

function makeRow(role, id = "") {
  const row = clone("t-message");
  row.className = `message ${role}`;
  row.dataset.message = id;
  row.querySelector(".sr-only").textContent = role === "user" ? "You:" : "Agent:";
  return row;
}

function addTool(row, id, name, args) {
  const card = clone("t-tool");
  card.dataset.call = id;
  card.querySelector(".tool-name").textContent = name;
  card.querySelector(".tool-args").textContent = asText(args);
  card.classList.add("running");
  card.querySelector(".tool-state").textContent = "running";
  row.querySelector(".tools").append(card);
  return card;
}

function finishTool(card, result, isError, durationMs) {
  card.classList.remove("running");
  card.classList.toggle("failed", Boolean(isError));
  card.querySelector(".tool-state").textContent = isError ? "failed" : `${durationMs ?? 0} ms`;
  card.querySelector(".tool-result").textContent = asText(result);
}

const findTool = (id) => list.querySelector(`[data-call="${CSS.escape(id)}"]`);
const findMessage = (id) => list.querySelector(`[data-message="${CSS.escape(String(id))}"]`);

// --- scrolling --------------------------------------------------------------------------------------------------------

let isAtEnd = true;

function follow() {
  if (isAtEnd) scroll.scrollTop = scroll.scrollHeight;
  jump.hidden = isAtEnd;
}

function watchScroll() {
  scroll.addEventListener("scroll", () => {
    isAtEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
    if (isAtEnd) jump.hidden = true;
  });
  jump.addEventListener("click", () => {
    isAtEnd = true;
    follow();
  });
  new ResizeObserver(follow).observe(scroll);
}

// --- the answer that is being written ------------------------------------------------------------------------------------

// One step of the agent: thoughts, text, tool calls. `row` is null between steps.
class Step {
  constructor() {
    this.row = null;
    this.text = "";
    this.thought = "";
    this.hasTools = false;
    this.renderedAt = 0;
    this.cost = 0;
  }

  open() {
    if (this.row) return this.row;
    this.row = makeRow("assistant");
    this.row.classList.add("writing");
    list.append(this.row);
    return this.row;
  }

  addThought(content) {
    const details = this.open().querySelector(".thought");
    details.hidden = false;
    this.thought += content;
    details.querySelector(".thought-text").textContent = this.thought;
  }

  addText(content) {
    this.open();
    this.text += content;
    this.schedule();
  }

  // Markdown of a growing text is rendered seldom enough that a long answer costs no more than a tenth of the time.
  schedule() {
    if (this.timer) return;
    const wait = Math.max(0, this.renderedAt + Math.max(RENDER_MS, this.cost * 10) - performance.now());
    this.timer = setTimeout(() => this.renderText(false), wait);
  }

  renderText(isFinal) {
    clearTimeout(this.timer);
    this.timer = 0;
    if (!this.row || !this.text) return;
    const started = performance.now();
    const element = this.row.querySelector(".text");
    element.hidden = false;
    render(element, this.text, { isFinal });
    this.renderedAt = performance.now();
    this.cost = this.renderedAt - started;
    follow();
  }

  close() {
    this.renderText(true);
    this.row?.classList.remove("writing");
  }

  discard() {
    clearTimeout(this.timer);
    if (!this.hasTools) this.row?.remove();
  }
}

// --- the conversation -------------------------------------------------------------------------------------------------------

export class Conversation {
  constructor(sessionId, { onActive, announce }) {
    this.sessionId = sessionId;
    this.onActive = onActive;
    this.announce = announce;
    this.step = new Step();
    this.unconfirmed = new Map(); // client_ref -> row, until the server has the message on record
    this.waiting = new Set(); // ids of messages whose turn has not begun
    list.querySelectorAll(".assistant .text:not([hidden])").forEach((text) => render(text, text.textContent));
    watchScroll();
    follow();
    earlier.addEventListener("click", () => this.loadEarlier());
  }

  addOwn(text, clientRef) {
    const row = makeRow("user");
    show(row.querySelector(".text"), text);
    show(row.querySelector(".note"), "Sending …");
    this.unconfirmed.set(clientRef, row);
    list.append(row);
    isAtEnd = true;
    follow();
  }

  take({ type, id, data }) {
    const handler = this[`on_${type}`];
    if (handler) handler.call(this, data, id);
    follow();
  }

  on_accepted({ message_id, client_ref }) {
    const row = this.unconfirmed.get(client_ref);
    this.unconfirmed.delete(client_ref);
    if (findMessage(message_id)) return row?.remove(); // its own event was faster
    if (!row) return;
    row.dataset.message = message_id;
    this.waiting.add(String(message_id));
    show(row.querySelector(".note"), this.isActive ? "Waits for its turn" : "");
    this.setActive(true);
  }

  on_message({ message_id, content }) {
    this.newStep();
    this.waiting.delete(String(message_id));
    const row = findMessage(message_id) ?? this.adopt(content) ?? list.appendChild(makeRow("user"));
    row.dataset.message = message_id;
    show(row.querySelector(".text"), content);
    show(row.querySelector(".note"), "");
    list.append(row); // a queued message stands behind the answers before it
    this.setActive(true);
  }

  // The connection broke before the server confirmed it: the event itself is the confirmation.
  adopt(content) {
    for (const [ref, row] of this.unconfirmed) {
      if (row.querySelector(".text").textContent === content) {
        this.unconfirmed.delete(ref);
        return row;
      }
    }
    return null;
  }

  on_thought({ content }) {
    if (this.step.hasTools) this.newStep();
    this.step.addThought(content);
  }

  on_response({ content }) {
    if (this.step.hasTools) this.newStep();
    this.step.addText(content);
  }

  on_tool_call({ tool_call_id, tool, args }) {
    if (findTool(tool_call_id)) return;
    const row = this.step.open();
    this.step.hasTools = true;
    this.step.renderText(true);
    addTool(row, tool_call_id, tool, args);
  }

  on_tool_result({ tool_call_id, tool, result, is_error, duration_ms }) {
    const card = findTool(tool_call_id) ?? addTool(this.step.open(), tool_call_id, tool ?? "tool", {});
    this.step.hasTools = true;
    finishTool(card, result, is_error, duration_ms);
  }

  on_discard() {
    this.step.discard();
    this.step = new Step();
  }

  on_done() {
    this.endRun("", "The answer is finished.");
  }

  on_cancelled() {
    this.endRun("Stopped before its end.", "The answer was stopped.");
  }

  on_error({ code, message, run_id }, id) {
    if (!id && !run_id) return;
    this.endRun(`Failed: ${message} (${code})`, "The answer failed.", true);
  }

  endRun(note, announcement, isFailure = false) {
    if (note) {
      const element = this.step.open().querySelector(".note");
      show(element, note);
      element.classList.toggle("failure", isFailure);
    }
    list.querySelectorAll(".tool.running").forEach((card) => {
      card.classList.remove("running");
      card.querySelector(".tool-state").textContent = "no result";
    });
    this.newStep();
    this.announce(announcement);
    this.setActive(this.waiting.size > 0);
  }

  newStep() {
    this.step.close();
    this.step = new Step();
  }

  setActive(isActive) {
    this.isActive = isActive;
    this.onActive(isActive);
  }

  // After a reconnect: what was sent into a dying connection and never confirmed.
  offerAgain(putBack) {
    for (const [ref, row] of this.unconfirmed) {
      this.unconfirmed.delete(ref);
      putBack(row.querySelector(".text").textContent);
      row.remove();
    }
  }

  async loadEarlier() {
    earlier.disabled = true;
    try {
      const page = await loadHistory(this.sessionId, earlier.dataset.before);
      const height = scroll.scrollHeight;
      list.prepend(...historyRows(page.messages));
      scroll.scrollTop += scroll.scrollHeight - height;
      earlier.dataset.before = page.before ?? "";
      earlier.hidden = page.before === null;
    } finally {
      earlier.disabled = false;
    }
  }
}

function historyRows(messages) {
  const results = new Map(messages.filter((m) => m.role === "tool").map((m) => [m.tool_call_id, m]));
  return messages.filter((m) => m.role !== "tool").map((message) => {
    const row = makeRow(message.role, message.id);
    const text = row.querySelector(".text");
    show(text, message.content);
    if (message.role === "assistant" && message.content) render(text, message.content);
    row.querySelector(".thought").hidden = !message.thought;
    row.querySelector(".thought-text").textContent = message.thought;
    for (const call of message.tool_calls) {
      const card = addTool(row, call.id, call.name, call.arguments);
      const result = results.get(call.id);
      if (result) finishTool(card, result.content, result.is_error, result.duration_ms);
    }
    show(row.querySelector(".note"), message.is_partial ? "Stopped before its end." : "");
    return row;
  });
}

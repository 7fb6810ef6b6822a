// The list of messages: what the server rendered, and what the events add to it.

import { loadHistory, loadSummaries } from "./api.js";
import { askForBudget, forgetBudget } from "./budget.js";
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

function makeRow(role, id = "", run = "") {
  const row = clone("t-message");
  row.className = `message ${role}`;
  row.dataset.message = id;
  row.dataset.run = run;
  row.querySelector(".sr-only").textContent = role === "user" ? "You:" : "Agent:";
  return row;
}

function setNote(row, note, { isFailure = false, isRetryable = false } = {}) {
  const element = row.querySelector(".note");
  show(element, note);
  element.classList.toggle("failure", isFailure);
  row.querySelector(".retry").hidden = !isRetryable;
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
  endTool(card, isError ? "failed" : `${durationMs ?? 0} ms`);
  card.classList.toggle("failed", Boolean(isError));
  card.querySelector(".tool-result").textContent = asText(result);
}

function endTool(card, state) {
  card.classList.remove("running");
  card.querySelector(".tool-state").textContent = state;
  card.querySelector(".approval").hidden = true;
}

const QUESTIONS = {
  approval: "The agent wants to run this tool. May it?",
  outcome_unknown: "The worker was lost while this tool was at work. Did it take effect?",
};

function askAbout(approval, run, args, reason, decisions) {
  const isApproval = reason === "approval";
  const written = approval.querySelector(".approval-args");
  approval.querySelector(".question").textContent = QUESTIONS[reason];
  written.value = written.defaultValue = JSON.stringify(args, null, 2);
  written.hidden = approval.querySelector(".approval-reason").hidden = !isApproval;
  for (const button of approval.querySelectorAll("button")) button.hidden = !decisions.includes(button.value);
  approval.dataset.run = run;
  approval.hidden = false;
}

const rowsOf = (run) => [...list.querySelectorAll(`.message[data-run="${CSS.escape(run)}"]`)];
const findTool = (run, id) => list.querySelector(`.message[data-run="${CSS.escape(run)}"] [data-call="${CSS.escape(id)}"]`);
const findMessage = (id) => list.querySelector(`[data-message="${CSS.escape(String(id))}"]`);

const findSummary = (id) => list.querySelector(`[data-summary="${CSS.escape(String(id))}"]`);

export function markSummaries(ids, isReverted) {
  for (const id of ids) findSummary(id)?.classList.toggle("reverted", isReverted);
}

// Where a run's end is told: its last answer, or a row of its own if there is none.
function lastAnswerOf(run) {
  const last = rowsOf(run).at(-1);
  if (!last?.matches(".user")) return last;
  const row = makeRow("assistant", "", run);
  last.after(row);
  return row;
}

// A retry goes on behind the steps that were finished, those with tools; what was left of its last answer is void.
function moveTurn(from, to) {
  return rowsOf(from).filter((row) => {
    row.dataset.run = to;
    setNote(row, "");
    const isKept = row.matches(".user") || row.querySelector(".tool");
    if (!isKept) row.remove();
    return isKept;
  });
}

// Whether an event's id lies behind a cursor; everything lies behind none.
function isBehind(id, cursor) {
  const [epoch, seq] = id.split("-").map(Number);
  const [cursorEpoch, cursorSeq] = (cursor ?? "0-0").split("-").map(Number);
  return epoch > cursorEpoch || (epoch === cursorEpoch && seq > cursorSeq);
}

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

// One step of a run: thoughts, text, tool calls. `row` is null between steps.
class Step {
  constructor(run) {
    this.run = run;
    this.row = null;
    this.text = "";
    this.thought = "";
    this.hasTools = false;
    this.renderedAt = 0;
    this.cost = 0;
  }

  open() {
    if (this.row) return this.row;
    this.row = makeRow("assistant", "", this.run);
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

  // All that is not on record: tools that are were called no later than `since`.
  discard(since) {
    clearTimeout(this.timer);
    this.row?.querySelectorAll(".tool.running[data-event]").forEach((card) => {
      if (isBehind(card.dataset.event, since)) card.remove();
    });
    this.row?.classList.remove("writing");
    if (!this.row?.querySelector(".tool")) this.row?.remove();
  }

  // The whole of this text comes next, and what there is of it is a part.
  restart(type) {
    this[type === "thought" ? "thought" : "text"] = "";
  }
}

// --- the conversation -------------------------------------------------------------------------------------------------------

export class Conversation {
  constructor(sessionId, run, { onActive, announce }) {
    this.sessionId = sessionId;
    this.run = run; // the one that is written; "" between runs
    this.onActive = onActive;
    this.announce = announce;
    this.step = new Step(run);
    this.unconfirmed = new Map(); // key of a message -> its row, until the server has the message on record
    this.waiting = new Set(); // ids of messages whose turn has not begun
    list.querySelectorAll(".assistant .text:not([hidden])").forEach((text) => render(text, text.textContent));
    watchScroll();
    follow();
    earlier.addEventListener("click", () => this.loadEarlier());
  }

  addOwn(text, key) {
    const row = makeRow("user");
    show(row.querySelector(".text"), text);
    show(row.querySelector(".note"), "Sending …");
    this.unconfirmed.set(key, row);
    list.append(row);
    isAtEnd = true;
    follow();
  }

  take({ type, id, data }) {
    const handler = this[`on_${type}`];
    if (handler) handler.call(this, data, id);
    follow();
  }

  on_accepted({ message_id, run_id, client_ref }) {
    const row = this.unconfirmed.get(client_ref);
    this.unconfirmed.delete(client_ref);
    if (!row) return;
    // Its own event was faster, or the page was loaded with it; without an id it stands in the run that tried it again.
    if (!message_id || findMessage(message_id)) return row.remove();
    row.dataset.message = message_id;
    row.dataset.run = run_id;
    this.waiting.add(String(message_id));
    show(row.querySelector(".note"), this.isActive ? "Waits for its turn" : "");
    this.setActive(true);
  }

  on_message({ message_id, run_id, content }) {
    this.waiting.delete(String(message_id));
    const row = findMessage(message_id) ?? this.adopt(content) ?? list.appendChild(makeRow("user"));
    const oldRun = row.dataset.run;
    row.dataset.message = message_id;
    row.dataset.run = run_id;
    show(row.querySelector(".text"), content);
    setNote(row, "");
    if (this.isOther(run_id)) return; // it never runs by itself: its end comes next
    this.run = run_id;
    this.newStep();
    list.append(row); // a queued message stands behind the answers before it
    if (oldRun && oldRun !== run_id) list.append(...moveTurn(oldRun, run_id));
    this.setActive(true);
  }

  isOther(run) {
    return Boolean(this.run) && run !== this.run;
  }

  // The event comes before the confirmation, as it does when the connection broke in between.
  adopt(content) {
    for (const [key, row] of this.unconfirmed) {
      if (row.querySelector(".text").textContent === content) {
        this.unconfirmed.delete(key);
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

  on_tool_call({ tool_call_id, tool, args }, id) {
    this.toolCard(this.run, tool_call_id, tool, args).dataset.event = id;
  }

  on_tool_result({ tool_call_id, tool, result, is_error, duration_ms }) {
    finishTool(this.toolCard(this.run, tool_call_id, tool ?? "tool", {}), result, is_error, duration_ms);
  }

  // The run is parked until a person decides about the call.
  on_approval_required({ run_id, tool_call_id, tool, args, reason, decisions, ...budget }) {
    if (reason === "budget") {
      askForBudget({ run_id, ...budget });
      this.announce("A budget is used up; the agent waits.");
      return;
    }
    const card = this.toolCard(run_id, tool_call_id, tool, args);
    card.classList.add("running");
    card.querySelector(".tool-state").textContent = "waits for you";
    card.open = true;
    askAbout(card.querySelector(".approval"), run_id, args, reason, decisions);
    this.announce("A tool call waits for your decision.");
  }

  // The run waits for a free slot, or has waited and is at work now.
  on_status({ run_id, status, position }) {
    if (!run_id) return;
    const row = rowsOf(run_id).at(-1);
    const note = position ? `Waiting for a free slot, position ${position}` : "Waiting for a worker that can do this";
    if (row) setNote(row, status === "waiting" ? note : "");
  }

  // From now on older turns stand in the prompt by their summary; here they stay.
  on_summary(summary) {
    if (findSummary(summary.summary_id)) return;
    const row = summaryRow(summary);
    this.step.row ? this.step.row.before(row) : list.append(row);
  }

  toolCard(run, id, name, args) {
    const found = findTool(run, id);
    if (found) return found;
    const row = this.step.open();
    this.step.hasTools = true;
    this.step.renderText(true);
    return addTool(row, id, name, args);
  }

  on_discard({ reason, run_id, since, event }) {
    if (reason === "gap") return this.markGap();
    if (reason === "merged") return this.step.restart(event);
    this.step.discard(since);
    forgetBudget(run_id);
    this.run = run_id;
    this.step = new Step(run_id);
    for (const row of rowsOf(run_id)) {
      setNote(row, ""); // it does not wait any more
      row.querySelectorAll(".approval").forEach((approval) => (approval.hidden = true));
    }
  }

  markGap() {
    const row = this.step.open();
    row.classList.add("gap");
    setNote(row, "A part is missing here until the answer is complete.");
  }

  on_done({ run_id, steered_into }) {
    if (steered_into) this.addSteering(run_id, steered_into);
    else this.endRun(run_id, "The answer is finished.");
  }

  on_cancelled({ run_id, rolled_back }) {
    if (rolled_back) rowsOf(run_id).forEach((row) => row.remove());
    this.endRun(run_id, "The answer was stopped.", rolled_back ? "" : "Stopped before its end.");
  }

  on_error({ code, message, run_id }, id) {
    if (!id && !run_id) return;
    this.endRun(run_id, "The answer failed.", `Failed: ${message} (${code})`, true);
  }

  // The message has entered the turn that runs, between two of its steps.
  addSteering(run, host) {
    this.newStep();
    for (const row of rowsOf(run)) {
      row.dataset.run = host;
      list.append(row);
    }
  }

  endRun(run, announcement, note = "", isFailure = false) {
    forgetBudget(run);
    const isOther = this.isOther(run);
    const row = note && (lastAnswerOf(run) ?? (isOther ? null : this.step.open()));
    if (row) setNote(row, note, { isFailure, isRetryable: true });
    if (isOther) return; // it was cancelled while it waited
    list.querySelectorAll(".gap").forEach((gap) => {
      gap.classList.remove("gap");
      if (gap !== row) setNote(gap, "A part is missing here. Load the page again to see it.");
    });
    list.querySelectorAll(".tool.running").forEach((card) => endTool(card, "no result"));
    this.run = "";
    this.newStep();
    this.announce(announcement);
    this.setActive(this.waiting.size > 0);
  }

  newStep() {
    this.step.close();
    this.step = new Step(this.run);
  }

  setActive(isActive) {
    this.isActive = isActive;
    this.onActive(isActive);
  }

  // The server has refused it. Whether it was still unconfirmed: its event may have come meanwhile.
  removeOwn(key) {
    this.unconfirmed.get(key)?.remove();
    return this.unconfirmed.delete(key);
  }

  async loadEarlier() {
    earlier.disabled = true;
    try {
      const [page, summaries] = await Promise.all([
        loadHistory(this.sessionId, earlier.dataset.before),
        loadSummaries(this.sessionId),
      ]);
      const height = scroll.scrollHeight;
      list.prepend(...withSummaries(page.messages, historyRows(page.messages), summaries));
      scroll.scrollTop += scroll.scrollHeight - height;
      earlier.dataset.before = page.before ?? "";
      earlier.hidden = page.before === null;
    } finally {
      earlier.disabled = false;
    }
  }
}

function summaryRow({ summary_id, first_turn, last_turn, tokens_before, tokens_after, text, is_reverted }) {
  const row = clone("t-summary");
  row.dataset.summary = summary_id;
  row.classList.toggle("reverted", Boolean(is_reverted));
  const turns = first_turn === last_turn ? `turn ${first_turn}` : `turns ${first_turn} to ${last_turn}`;
  row.querySelectorAll(".turns").forEach((element) => (element.textContent = turns));
  row.querySelector(".sizes").textContent = `${tokens_before} → ${tokens_after} tokens.`;
  row.querySelector(".summary-text").textContent = text;
  return row;
}

// Each summary that was told among these messages stands before the first answer that was given by it, else behind them.
function withSummaries(messages, rows, summaries) {
  const time = (each) => Date.parse(each.created_at);
  const answers = new Map(messages.filter((m) => m.role === "assistant").map((m) => [String(m.id), time(m)]));
  const placed = [...rows];
  const told = summaries.filter((each) => each.told_at && !findSummary(each.summary_id));
  for (const summary of told.sort((a, b) => Date.parse(a.told_at) - Date.parse(b.told_at))) {
    const at = Date.parse(summary.told_at);
    if (!messages.length || at < time(messages[0])) continue; // it stands among still earlier ones
    const next = placed.findIndex((row) => answers.get(row.dataset.message) >= at);
    placed.splice(next < 0 ? placed.length : next, 0, summaryRow(summary));
  }
  return placed;
}

function historyRows(messages) {
  const results = new Map(messages.filter((m) => m.role === "tool").map((m) => [m.tool_call_id, m]));
  return messages.filter((m) => m.role !== "tool").map((message) => {
    const row = makeRow(message.role, message.id, message.run_id);
    const text = row.querySelector(".text");
    show(text, message.content);
    if (message.role === "assistant" && message.content) render(text, message.content);
    row.classList.toggle("pinned", message.is_pinned);
    row.querySelector(".pin").setAttribute("aria-pressed", message.is_pinned);
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

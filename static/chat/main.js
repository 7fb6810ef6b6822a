// Puts the page's parts together.

import { watchActions } from "./actions.js";
import { createSession, loadApprovals, readSession } from "./api.js";
import { showBudgets } from "./budget.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { ContextMeter } from "./context.js";
import { Conversation } from "./conversation.js";
import { Outbox } from "./outbox.js";
import { setTitle, watchSidebar } from "./sidebar.js";

const page = document.getElementById("app").dataset;
const state = document.getElementById("state");
const NO_CONNECTION = "There is no connection now. Your text is kept; send it again when the page is live.";

function watchTheme() {
  document.getElementById("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const isDark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = isDark ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  });
}

// A conversation begins with its first message: open a session, go to its page, and send it from there.
function startPage() {
  const composer = new Composer("new", {
    async onSend(text) {
      const { session_id: id } = await createSession(document.getElementById("agent").value);
      new Outbox(id).add(text);
      location.assign(`${page.pageUrl}${id}/`);
    },
    onStop() {},
    onTyping() {},
  });
  watchSidebar("", (message) => composer.complain(message));
}

function conversationPage() {
  const id = page.session;
  const outbox = new Outbox(id);
  const complain = (message) => composer.complain(message);
  const announce = (text) => (document.getElementById("announce").textContent = text);
  const earlier = document.getElementById("earlier");
  earlier.dataset.before = page.before;

  const composer = new Composer(id, {
    onSend(text) {
      if (!connection.isLive) throw new Error(NO_CONNECTION);
      const key = outbox.add(text);
      conversation.addOwn(text, key);
      transmit(key, text);
    },
    onStop: () => connection.send({ type: "cancel" }),
    onTyping: (draft) => connection.send({ type: "typing", message: draft.slice(0, 4000) }),
  });
  const transmit = (key, message) =>
    connection.send({ type: "chat", message, client_ref: key, idempotency_key: key });
  const onActive = (isActive) => composer.setActive(isActive);
  const conversation = new Conversation(id, page.run, { onActive, announce });
  conversation.setActive(page.active === "true");
  outbox.messages.forEach((text, key) => conversation.addOwn(text, key));
  if (conversation.isActive) showApprovals(id, conversation).catch((error) => complain(error.message));

  const connection = new Connection(`${page.socketUrl}${id}`, page.cursor, {
    onEvent(event) {
      const isRefusal = event.type === "error" && !event.id;
      if (isRefusal) {
        complain(event.data.message);
        const refused = outbox.refuse();
        if (refused && conversation.removeOwn(refused.key)) composer.offer(refused.text);
      }
      if (event.type === "accepted") outbox.confirm(event.data.client_ref);
      conversation.take(event);
      if (isRefusal || !["done", "cancelled", "error"].includes(event.type)) return;
      meter.refresh();
      refreshTitle(id); // the first turn gives one, however it ends
    },
    onState(name, message) {
      state.dataset.state = name;
      state.textContent = name;
      if (message) complain(message);
      if (name !== "live") return;
      composer.withdraw(NO_CONNECTION);
      outbox.messages.forEach((text, key) => transmit(key, text)); // into this connection, whatever became of the last
    },
  });
  const meter = new ContextMeter(id, { draft: () => composer.box.value, complain });
  watchSidebar(id, complain);
  const onFork = (fork) => location.assign(`${page.pageUrl}${fork}/`);
  watchActions({ onFork, onContext: () => meter.refresh(), complain }, id);
}

// What waited for a person already when the page was loaded.
async function showApprovals(id, conversation) {
  for (const approval of await loadApprovals(id)) conversation.on_approval_required(approval);
  await showBudgets(id);
}

async function refreshTitle(id) {
  const { title } = await readSession(id).catch(() => ({}));
  if (title) setTitle(id, title, id);
}

watchTheme();
if (page.session) conversationPage();
else startPage();

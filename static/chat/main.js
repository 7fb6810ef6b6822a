// Puts the page's parts together.

import { watchActions } from "./actions.js";
import { createSession, loadApprovals, readSession } from "./api.js";
import { showBudgets } from "./budget.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { ContextMeter } from "./context.js";
import { Conversation } from "./conversation.js";
import { setTitle, watchSidebar } from "./sidebar.js";

const page = document.getElementById("app").dataset;
const state = document.getElementById("state");
const firstMessageKey = (id) => `first:${id}`;

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
      sessionStorage.setItem(firstMessageKey(id), text);
      location.assign(`${page.pageUrl}${id}/`);
    },
    onStop() {},
    onTyping() {},
  });
  watchSidebar("", (message) => composer.complain(message));
}

function conversationPage() {
  const id = page.session;
  let refs = 0;
  const complain = (message) => composer.complain(message);
  const announce = (text) => (document.getElementById("announce").textContent = text);
  const earlier = document.getElementById("earlier");
  earlier.dataset.before = page.before;

  const composer = new Composer(id, {
    onSend(text) {
      const clientRef = `${Date.now()}-${++refs}`;
      if (!connection.send({ type: "chat", message: text, client_ref: clientRef })) {
        throw new Error("There is no connection now. Your text is kept; send it again when the page is live.");
      }
      conversation.addOwn(text, clientRef);
    },
    onStop: () => connection.send({ type: "cancel" }),
    onTyping: (draft) => connection.send({ type: "typing", message: draft.slice(0, 4000) }),
  });
  const onActive = (isActive) => composer.setActive(isActive);
  const conversation = new Conversation(id, page.run, { onActive, announce });
  conversation.setActive(page.active === "true");
  if (conversation.isActive) showApprovals(id, conversation).catch((error) => complain(error.message));

  const connection = new Connection(`${page.socketUrl}${id}`, page.cursor, {
    onEvent(event) {
      if (event.type === "error" && !event.id) {
        complain(event.data.message);
        conversation.offerAgain((text) => composer.put(text));
      }
      conversation.take(event);
      if (event.type === "done") refreshTitle(id);
      if (["done", "cancelled", "error"].includes(event.type)) meter.refresh();
    },
    onState(name, message) {
      state.dataset.state = name;
      state.textContent = name;
      if (message) complain(message);
      if (name === "live") sendFirst(id, composer);
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

function sendFirst(id, composer) {
  const text = sessionStorage.getItem(firstMessageKey(id));
  if (text === null) return;
  sessionStorage.removeItem(firstMessageKey(id));
  composer.put(text);
  composer.submit();
}

async function refreshTitle(id) {
  const { title } = await readSession(id).catch(() => ({}));
  if (title) setTitle(id, title, id);
}

watchTheme();
if (page.session) conversationPage();
else startPage();

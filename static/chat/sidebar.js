// The list of conversations: search, rename, delete, and the drawer that it is on a phone.

import { deleteSession, renameSession } from "./api.js";

const sidebar = document.getElementById("sidebar");
const search = document.getElementById("search");
const menu = document.getElementById("menu");
const shade = document.getElementById("shade");
const hint = document.getElementById("listed");
const hintOfServer = hint.textContent;
const rows = () => [...document.querySelectorAll("#sessions .session")];

export function watchSidebar(currentSession, complain) {
  search.addEventListener("input", filter);
  addEventListener("keydown", (event) => {
    if ((event.ctrlKey || event.metaKey) && event.key === "k") {
      event.preventDefault();
      setOpen(true);
      search.focus();
    }
    if (event.key === "Escape") setOpen(false);
  });
  // Not a submit button: Enter in the field presses the first of those, and that is Save.
  document.getElementById("keep-title").addEventListener("click", () => document.getElementById("rename").close());
  menu.addEventListener("click", () => setOpen(!sidebar.classList.contains("open")));
  shade.addEventListener("click", () => setOpen(false));
  document.getElementById("sessions").addEventListener("click", async (event) => {
    const row = event.target.closest(".session");
    try {
      if (event.target.closest(".rename")) await rename(row, currentSession);
      if (event.target.closest(".delete")) await remove(row, currentSession);
    } catch (error) {
      complain(error.message);
    }
  });
}

function setOpen(isOpen) {
  sidebar.classList.toggle("open", isOpen);
  shade.hidden = !isOpen;
  menu.setAttribute("aria-expanded", isOpen);
}

function filter() {
  const wanted = search.value.trim().toLowerCase();
  for (const row of rows()) row.hidden = !row.dataset.title.toLowerCase().includes(wanted);
  hint.textContent = rows().some((row) => !row.hidden) ? "" : whyNone();
}

// The list holds the newest conversations only, or those that a search has found.
function whyNone() {
  if (search.value === search.defaultValue && hintOfServer) return hintOfServer;
  const isPart = search.defaultValue || document.getElementById("more");
  return isPart ? "Nothing matches here. Enter searches all conversations." : "Nothing matches.";
}

function ask(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) =>
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "ok"), { once: true }),
  );
}

async function rename(row, currentSession) {
  const input = document.getElementById("new-title");
  input.value = row.dataset.title;
  if (!(await ask(document.getElementById("rename")))) return;
  const { title } = await renameSession(row.dataset.session, input.value.trim());
  setTitle(row.dataset.session, title, currentSession);
}

export function setTitle(id, title, currentSession) {
  const row = rows().find((candidate) => candidate.dataset.session === id);
  if (row) {
    row.dataset.title = title;
    row.querySelector(".session-title").textContent = title;
    row.querySelector(".rename").setAttribute("aria-label", `Rename ${title}`);
    row.querySelector(".delete").setAttribute("aria-label", `Delete ${title}`);
  }
  if (id === currentSession) {
    document.getElementById("title").textContent = title;
    document.title = `${title} · Agentsite`;
  }
}

async function remove(row, currentSession) {
  document.getElementById("delete-name").textContent = row.dataset.title;
  if (!(await ask(document.getElementById("delete")))) return;
  await deleteSession(row.dataset.session);
  row.remove();
  if (row.dataset.session === currentSession) location.assign("/");
}

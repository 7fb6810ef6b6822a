// Looks again at every table[data-live], that many seconds apart, while the page is seen. The rest of the page, a form
// that is being filled in, stays as it is.

"use strict";

async function lookAgain(table) {
  const response = await fetch(location.href, { credentials: "same-origin" });
  if (!response.ok) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.querySelector("table[data-live]");
  if (fresh) table.tBodies[0].replaceWith(fresh.tBodies[0]);
}

addEventListener("DOMContentLoaded", () => {
  for (const table of document.querySelectorAll("table[data-live]")) {
    setInterval(() => document.hidden || lookAgain(table).catch(() => {}), Number(table.dataset.live) * 1000);
  }
});

// A run that a budget has stopped: what is missing, and the way to raise it where its owner may.

import { loadBudgets } from "./api.js";

const list = document.getElementById("messages");

const rowOf = (run) => list.querySelector(`.budget-row[data-run="${CSS.escape(run)}"]`);

export function askForBudget({ run_id, budget, budget_id, measure, left, needed, owner_may_raise }) {
  const known = rowOf(run_id);
  const row = known ?? document.getElementById("t-budget").content.firstElementChild.cloneNode(true);
  row.dataset.run = run_id;
  row.dataset.budget = budget_id;
  row.querySelector(".question").textContent =
    `The agent waits: the budget ${budget} has ${left} ${measure} left, and the next answer needs ${needed}.`;
  row.querySelector(".budget-amount").value = needed;
  row.querySelector(".budget-raise").hidden = !owner_may_raise;
  row.querySelector(".budget-wait").hidden = owner_may_raise;
  if (!known) list.append(row);
}

// The run goes on, or has ended.
export function forgetBudget(run) {
  rowOf(run)?.remove();
}

// What waited already when the page was loaded.
export async function showBudgets(sessionId) {
  for (const { waiting, name, measure, left, budget_id, owner_limit } of await loadBudgets(sessionId)) {
    if (!waiting) continue;
    askForBudget({ ...waiting, budget: name, budget_id, measure, left, owner_may_raise: owner_limit !== null });
  }
}

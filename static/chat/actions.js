// What a person can do with the messages: decide about a tool call, try an answer again, fork the conversation, pin a
// message, take a summary back, raise a budget.

import { forkSession, pinMessage, raiseBudget, restoreSummary, retryRun, revertSummary, settleCall } from "./api.js";
import { markSummaries } from "./conversation.js";

// The arguments go along only if the person has changed them.
function verdictOf(approval, decision) {
  const written = approval.querySelector(".approval-args");
  const reason = approval.querySelector(".approval-reason").value.trim();
  if (decision === "denied") return { decision, reason };
  if (decision !== "approved" || written.value === written.defaultValue) return { decision };
  try {
    return { decision, args: JSON.parse(written.value) };
  } catch {
    throw new Error("The arguments are not valid JSON.");
  }
}

export function watchActions({ onFork, onContext, complain }, sessionId) {
  const actions = {
    async fork(button, row) {
      const fork = await forkSession(sessionId, Number(row.dataset.message));
      onFork(fork.session_id);
    },
    async pin(button, row) {
      const message = await pinMessage(sessionId, Number(row.dataset.message), !row.classList.contains("pinned"));
      row.classList.toggle("pinned", message.is_pinned);
      button.setAttribute("aria-pressed", message.is_pinned);
      onContext();
    },
    async revert(button, row) {
      const reverted = await revertSummary(sessionId, row.dataset.summary);
      markSummaries([row.dataset.summary, ...reverted.map((each) => each.summary_id)], true);
      onContext();
    },
    async restore(button, row) {
      await restoreSummary(sessionId, row.dataset.summary);
      markSummaries([row.dataset.summary], false);
      onContext();
    },
    async raise(button, row) {
      await raiseBudget(sessionId, row.dataset.budget, row.querySelector(".budget-amount").value);
      row.remove();
    },
    async retry(button, row) {
      await retryRun(row.dataset.run);
    },
    async settle(button) {
      const card = button.closest(".tool");
      const approval = button.closest(".approval");
      const verdict = verdictOf(approval, button.value);
      await settleCall(approval.dataset.run, card.dataset.call, verdict);
      if (verdict.args) card.querySelector(".tool-args").textContent = JSON.stringify(verdict.args, null, 2);
      if (!approval.hidden) card.querySelector(".tool-state").textContent = "settled"; // else its result was faster
      approval.hidden = true;
      card.querySelector("summary").focus();
    },
  };

  document.getElementById("messages").addEventListener("click", async ({ target }) => {
    const button = target.closest("[data-action]");
    if (!button) return;
    const together = [...button.parentElement.querySelectorAll("[data-action]")];
    complain("");
    together.forEach((each) => (each.disabled = true));
    try {
      await actions[button.dataset.action](button, button.closest("#messages > li"));
    } catch (error) {
      complain(error.message);
    } finally {
      together.forEach((each) => (each.disabled = false));
      if (document.activeElement === document.body) [button, ...together].find((each) => each.checkVisibility())?.focus();
    }
  });
}

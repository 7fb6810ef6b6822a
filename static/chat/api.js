// The REST API with the login cookie. Throws Error with the server's own sentence.

const csrf = () => document.querySelector("input[name=csrfmiddlewaretoken]").value;

function request(method, url, body) {
  return fetch(url, {
    method,
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRFToken": csrf() },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
}

async function call(method, url, body) {
  return readAnswer(await request(method, url, body));
}

async function readAnswer(response) {
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error?.message ?? `The server answered ${response.status}.`);
  return answer;
}

const { sessionsUrl, runsUrl } = document.getElementById("app").dataset;

export const createSession = (agentType) => call("POST", sessionsUrl, { agent_type: agentType });
export const renameSession = (id, title) => call("PATCH", `${sessionsUrl}/${id}`, { title });
export const deleteSession = (id) => call("DELETE", `${sessionsUrl}/${id}`);
export const loadHistory = (id, before) => call("GET", `${sessionsUrl}/${id}/history?limit=50&before=${before}`);
export const readSession = (id) => call("GET", `${sessionsUrl}/${id}`);
export const forkSession = (id, messageId) => call("POST", `${sessionsUrl}/${id}/fork`, { message_id: messageId });
export const loadBudgets = (id) => call("GET", `${sessionsUrl}/${id}/budgets`);
export const raiseBudget = (id, budgetId, amount) =>
  call("POST", `${sessionsUrl}/${id}/budgets/${budgetId}/raise`, { amount });
export const loadApprovals = (id) => call("GET", `${sessionsUrl}/${id}/approvals`);
export const readContext = (id, message) =>
  call("GET", `${sessionsUrl}/${id}/context?message=${encodeURIComponent(message.slice(0, 2000))}`);
export const loadSummaries = (id) => call("GET", `${sessionsUrl}/${id}/summaries`);
export const revertSummary = (id, summaryId) => call("POST", `${sessionsUrl}/${id}/summaries/${summaryId}/revert`, {});
export const restoreSummary = (id, summaryId) => call("POST", `${sessionsUrl}/${id}/summaries/${summaryId}/restore`, {});
export const pinMessage = (id, messageId, isPinned) =>
  call("PATCH", `${sessionsUrl}/${id}/messages/${messageId}`, { is_pinned: isPinned });
export const settleCall = (runId, callId, verdict) =>
  call("POST", `${runsUrl}/${runId}/tool_calls/${encodeURIComponent(callId)}/settle`, verdict);

// The retry's events come over the WebSocket as all others do, so its own stream is not read.
export async function retryRun(runId) {
  const response = await request("POST", `${runsUrl}/${runId}/retry`, {});
  if (response.ok) await response.body.cancel();
  else await readAnswer(response);
}

// The REST API with the login cookie. Throws Error with the server's own sentence.

const csrf = () => document.querySelector("input[name=csrfmiddlewaretoken]").value;

async function call(method, url, body) {
  const response = await fetch(url, {
    method,
    headers: { "Content-Type": "application/json", Accept: "application/json", "X-CSRFToken": csrf() },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error?.message ?? `The server answered ${response.status}.`);
  return answer;
}

const sessionsUrl = document.getElementById("app").dataset.sessionsUrl;

export const createSession = (agentType) => call("POST", sessionsUrl, { agent_type: agentType });
export const renameSession = (id, title) => call("PATCH", `${sessionsUrl}/${id}`, { title });
export const deleteSession = (id) => call("DELETE", `${sessionsUrl}/${id}`);
export const loadHistory = (id, before) => call("GET", `${sessionsUrl}/${id}/history?limit=50&before=${before}`);
export const readSession = (id) => call("GET", `${sessionsUrl}/${id}`);

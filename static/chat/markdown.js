// Markdown to safe HTML. Everything passes the sanitiser; text that is not rendered yet is set as textContent.

import DOMPurify from "../vendor/dompurify.js";
import hljs from "../vendor/highlight.js";
import { marked } from "../vendor/marked.js";

// HTML in Markdown is shown as what it is: text.
const escape = (text) => text.replace(/[&<>"]/g, (c) => ({ "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" })[c]);
marked.use({ gfm: true, breaks: true, renderer: { html: ({ text }) => escape(text) } });

const ALLOWED = {
  ALLOWED_TAGS: [
    "a", "blockquote", "br", "code", "del", "em", "h1", "h2", "h3", "h4", "h5", "h6", "hr", "input", "li", "ol", "p",
    "pre", "strong", "sub", "sup", "table", "tbody", "td", "th", "thead", "tr", "ul",
  ],
  ALLOWED_ATTR: ["align", "checked", "class", "disabled", "href", "start", "title", "type"],
  ALLOWED_URI_REGEXP: /^(?:https?:|mailto:|#|\/(?!\/))/i,
};

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("rel", "noopener noreferrer");
    node.setAttribute("target", "_blank");
  }
  if (node.tagName === "INPUT" && node.getAttribute("type") !== "checkbox") node.remove();
});

export function render(element, text, { isFinal = true } = {}) {
  element.innerHTML = DOMPurify.sanitize(marked.parse(text), ALLOWED);
  element.classList.add("markdown");
  if (isFinal) element.querySelectorAll("pre > code").forEach(finishCode);
}

function finishCode(code) {
  const language = [...code.classList].find((name) => name.startsWith("language-"))?.slice(9);
  if (language && hljs.getLanguage(language)) {
    code.innerHTML = hljs.highlight(code.textContent, { language, ignoreIllegals: true }).value;
  }
  const button = document.createElement("button");
  button.type = "button";
  button.className = "copy";
  button.textContent = "Copy";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(code.textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  code.parentElement.append(button);
}

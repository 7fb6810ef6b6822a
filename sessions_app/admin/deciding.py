"""The admin's page on which staff decide about a tool call that waits for a person."""

from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.admin import ModelAdmin
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse

from sessions_app.errors import AgentsiteError
from sessions_app.models import Decision, ToolCall
from sessions_app.services.deciding import Verdict, decisions_for, settle_call


class DecisionForm(forms.Form):
    """Arguments go with an approval, the reason with a denial, the result with `happened`."""

    decision = forms.ChoiceField(widget=forms.RadioSelect)
    arguments = forms.JSONField(required=False, help_text="If you approve it: change them as you like.")
    reason = forms.CharField(required=False, max_length=2_000, help_text="If you deny it: what the agent is told.")
    result = forms.JSONField(required=False, help_text="If it happened: what the tool came to, as JSON.")

    def __init__(self, call: ToolCall, data: Any = None) -> None:
        super().__init__(data, initial={"arguments": call.arguments})
        self._call = call
        decisions = decisions_for(call)
        self.fields["decision"].choices = [(each.value, each.label) for each in decisions]  # type: ignore[attr-defined]
        if Decision.APPROVED in decisions:
            del self.fields["result"]
        else:
            del self.fields["arguments"], self.fields["reason"]

    def clean_arguments(self) -> Any:
        arguments = self.cleaned_data["arguments"]
        if not isinstance(arguments, dict):
            raise forms.ValidationError("The arguments are a JSON object.")
        return arguments

    def verdict(self) -> Verdict:
        values = self.cleaned_data
        decision = Decision(values["decision"])
        arguments = values.get("arguments")
        is_edited = decision == Decision.APPROVED and arguments != self._call.arguments
        return Verdict(
            decision,
            arguments=arguments if is_edited else None,
            result=values.get("result") if values.get("result") is not None else "It took effect.",
            reason=values.get("reason", ""),
        )


def decide(admin: "ModelAdmin[ToolCall]", request: HttpRequest, call_id: int) -> HttpResponse:
    """Show the form, or do what it says; back to the list then."""
    if not request.user.has_perm("sessions_app.change_toolcall"):
        raise PermissionDenied
    call = ToolCall.objects.select_related("run").filter(pk=call_id).first()
    if call is None:
        raise Http404
    form = DecisionForm(call, request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            settle_call(run=call.run, call_id=call.call_id, verdict=form.verdict(), user=request.user)
        except AgentsiteError as error:
            messages.error(request, error.message)
        else:
            admin.log_change(request, call, f"Settled as {form.cleaned_data['decision']}.")
            messages.success(request, f"Settled {call.tool} as {form.cleaned_data['decision']}.")
        return redirect("admin:sessions_app_toolcall_changelist")
    context = {**admin.admin_site.each_context(request), "title": f"Decide about {call.tool}", "form": form}
    return TemplateResponse(request, "admin/decide.html", {**context, "call": call, "opts": ToolCall._meta})

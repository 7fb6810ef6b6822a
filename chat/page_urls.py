from django.urls import path

from chat import page

urlpatterns = [
    path("", page.home, name="chat-home"),
    path("new/", page.new, name="chat-new"),
    path("c/<str:session_id>/", page.conversation, name="chat-session"),
]

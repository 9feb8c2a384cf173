"""An existing Flask app with a login. LLM API is mounted under /llm, and its callers are the users.

pip install flask-login .  &&  LLM_BACKEND=stub flask --app examples/host_app run
"""

from flask import Flask, abort, request
from flask_login import LoginManager, UserMixin, current_user, login_required, login_user

from llm_api import LLMAPI
from llm_api.errors import Unauthorized

USERS = {"ada": "lovelace"}


class User(UserMixin):
    """A user who has logged in."""

    def __init__(self, name: str) -> None:
        self.id = name


def caller() -> str:
    """Return the user's name. Raises Unauthorized before a login."""
    if not current_user.is_authenticated:
        raise Unauthorized("log in first: POST /login")
    name: str = current_user.get_id()
    return name


app = Flask(__name__)
app.secret_key = "for this example only"
app.config["LLM_API_LOG_FILE"] = "logs/host_app.jsonl"
login_manager = LoginManager(app)
login_manager.user_loader(User)
LLMAPI(app, url_prefix="/llm", caller=caller, handle_errors=True)


@app.post("/login")
def login() -> str:
    """Log in with the form fields `name` and `password`."""
    name = request.form["name"]
    if USERS.get(name) != request.form["password"]:
        abort(403)
    login_user(User(name))
    return f"Hello {name}\n"


@app.get("/poem/<subject>")
@login_required
def poem(subject: str) -> str:
    """Call the model without HTTP, from the app's own view."""
    return str(LLMAPI.of(app).generate(f"Write a short poem about {subject}.", caller=caller())) + "\n"

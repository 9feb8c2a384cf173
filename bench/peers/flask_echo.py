"""The least that a Flask service costs: JSON in, JSON out, no far end, no log."""

from flask import Flask, Response, jsonify, request

app = Flask(__name__)


@app.post("/generate")
def generate() -> Response:
    return jsonify(response=request.get_json()["prompt"])

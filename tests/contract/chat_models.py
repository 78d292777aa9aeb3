"""Chat models and agents without weights: they answer the words of the last message, and stream them one by one."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints while it is imported
    import mlflow.pyfunc
    from mlflow.types.agent import ChatAgentChunk, ChatAgentMessage, ChatAgentResponse
    from mlflow.types.llm import ChatCompletionChunk, ChatCompletionResponse
    from mlflow.types.responses import ResponsesAgentResponse, ResponsesAgentStreamEvent

TICK_S = 0.02


def words(text: str, custom: Mapping[str, Any] | None) -> Generator[str]:
    """Yield the words of a text.

    ``fail`` raises, and ``forever`` never ends. `custom` may name files: no word comes before `wait` exists, no second
    one before `gate` exists, and `closed` is written when the generator ends.
    """
    custom = custom or {}
    try:
        for number, word in enumerate(text.split()):
            awaited = custom.get("gate" if number else "wait")
            while awaited is not None and not Path(awaited).exists():
                time.sleep(TICK_S)
            if word == "fail":
                raise ValueError("fail, says /secret/path")
            while word == "forever":
                time.sleep(TICK_S)
                yield word
            yield word
    finally:
        if "closed" in custom:
            Path(custom["closed"]).write_text("closed")


class EchoChat(mlflow.pyfunc.ChatModel):  # type: ignore[misc]  # MLflow is untyped here
    """A chat model; it shows the parameters that reach it."""

    def predict(self, context, messages, params):  # type: ignore[no-untyped-def]
        """Answer all words at once."""
        answer = " ".join(words(messages[-1].content, params.custom_inputs))
        message = {"role": "assistant", "content": f"{answer} at {params.temperature}, {len(messages)} messages"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
        body = {"id": "chat-1", "created": 1, "model": "echo", "choices": [choice], "usage": usage}
        return ChatCompletionResponse.from_dict(body)

    def predict_stream(self, context, messages, params):  # type: ignore[no-untyped-def]
        """Answer word by word."""
        for word in words(messages[-1].content, params.custom_inputs):
            choice = {"index": 0, "delta": {"role": "assistant", "content": word}}
            body = {"id": "chat-1", "created": 1, "model": "echo", "choices": [choice]}
            yield ChatCompletionChunk.from_dict(body)


class SilentChat(mlflow.pyfunc.ChatModel):  # type: ignore[misc]
    """A chat model without a stream."""

    predict = EchoChat.predict


class EchoAgent(mlflow.pyfunc.ChatAgent):  # type: ignore[misc]
    """A chat agent; it returns its custom inputs and its context."""

    def predict(self, messages, context=None, custom_inputs=None):  # type: ignore[no-untyped-def]
        """Answer all words at once."""
        answer = ChatAgentMessage(role="assistant", content=messages[-1].content, id="1")
        seen = {"custom": custom_inputs, "user": context.user_id if context else None}
        return ChatAgentResponse(messages=[answer], custom_outputs=seen)

    def predict_stream(self, messages, context=None, custom_inputs=None):  # type: ignore[no-untyped-def]
        """Answer word by word."""
        for word in words(messages[-1].content, custom_inputs):
            yield ChatAgentChunk(delta=ChatAgentMessage(role="assistant", content=word, id="1"))


class EchoResponses(mlflow.pyfunc.ResponsesAgent):  # type: ignore[misc]
    """A responses agent."""

    def predict(self, request):  # type: ignore[no-untyped-def]
        """Answer all words at once."""
        item = self.create_text_output_item(request.input[-1].content, "1")
        return ResponsesAgentResponse(output=[item], custom_outputs=request.custom_inputs)

    def predict_stream(self, request):  # type: ignore[no-untyped-def]
        """Answer word by word, and then the whole item."""
        for word in words(request.input[-1].content, request.custom_inputs):
            yield ResponsesAgentStreamEvent(**self.create_text_delta(word, "1"))
        item = self.create_text_output_item(request.input[-1].content, "1")
        yield ResponsesAgentStreamEvent(type="response.output_item.done", item=item)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")

    class EchoPython(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        """A plain Python model with a stream, whose events are dicts."""

        def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            """Return the input."""
            return {"seen": str(model_input), "params": params}

        def predict_stream(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
            """Yield the words of the prompt."""
            for word in words(str(model_input["prompt"]), None):
                yield {"word": word, "params": params}


MODELS: dict[str, Callable[[], Any]] = {
    "chat": EchoChat,
    "silent": SilentChat,
    "agent": EchoAgent,
    "responses": EchoResponses,
    "python": EchoPython,
}

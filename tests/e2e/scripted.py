"""A server of galerne.v1 that says what a test tells it to, and keeps what it was asked.

It stands in for the daemon where the moment matters: half of an answer, then a wait, an error, the
end of the connection."""
import pathlib
import tempfile
import threading
from concurrent import futures

import grpc
from galerne.v1 import inference_pb2 as pb
from galerne.v1 import inference_pb2_grpc

CONTEXT_TOKENS = 1000


def piece(text: str) -> pb.GenerateResponse:
    return pb.GenerateResponse(tokens=[pb.Token(id=1, bytes=text.encode())],
                               choices=[pb.Choice(text=text)])


def last(finish=pb.FINISH_REASON_STOP, prompt=10, output=5) -> pb.GenerateResponse:
    return pb.GenerateResponse(choices=[pb.Choice(finish_reason=finish)],
                               usage=pb.Usage(prompt_tokens=prompt, output_tokens=output))


class Scripted(inference_pb2_grpc.InferenceServicer):
    """`answers` are taken one by one: each a list of texts, messages, events (to wait for) and
    (code, text) pairs, which end it with an error. Without one, it echoes the question."""

    def __init__(self, chat_template: str = "chatml"):
        self.directory = tempfile.TemporaryDirectory(prefix="galerne-scripted-")
        self.run_dir = pathlib.Path(self.directory.name)
        self.chat_template = chat_template
        self.requests, self.answers = [], []
        self.cancelled = threading.Event()
        self.server = None
        self.start()

    def start(self) -> None:
        self.server = grpc.server(futures.ThreadPoolExecutor(4))
        inference_pb2_grpc.add_InferenceServicer_to_server(self, self.server)
        assert self.server.add_insecure_port(f"unix:{self.run_dir / 'galerne.sock'}")
        self.server.start()

    def stop(self) -> None:
        """Connections are cut."""
        if self.server:
            self.server.stop(0).wait()
        self.server = None

    def close(self) -> None:
        self.stop()
        self.directory.cleanup()

    def turns(self, index: int = -1) -> list:
        """The conversation of a request: (role's first letter, text)."""
        return [(pb.Role.Name(m.role)[len("ROLE_")].lower(), m.content)
                for m in self.requests[index].chat.messages]

    def model(self) -> pb.Model:
        return pb.Model(name="models/one", state=pb.MODEL_STATE_SERVING,
                        context_tokens=CONTEXT_TOKENS, chat_template=self.chat_template)

    # ---- the service ----

    def ListModels(self, request, context):
        return pb.ListModelsResponse(models=[self.model()])

    def GetModel(self, request, context):
        if request.name.split("/")[-1] != "one":
            context.abort(grpc.StatusCode.NOT_FOUND, f"there is no model {request.name}")
        return pb.GetModelResponse(model=self.model())

    def Generate(self, request, context):
        self.requests.append(request)
        context.add_callback(lambda: context.code() is None and self.cancelled.set())
        steps = self.answers.pop(0) if self.answers else \
            ["echo: " + request.chat.messages[-1].content]
        for step in steps:
            if isinstance(step, str):
                yield piece(step)
            elif isinstance(step, threading.Event):
                while not step.wait(0.02):
                    if not context.is_active():
                        self.cancelled.set()
                        return
            elif isinstance(step, tuple):
                context.abort(*step)
            else:
                yield step
        if not steps or not isinstance(steps[-1], pb.GenerateResponse):
            yield last()

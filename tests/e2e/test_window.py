"""A model with a sliding window: a context that is far longer than its pool of KV blocks."""
import pytest
from galerne.v1 import inference_pb2 as pb

from daemon import ROOT, Daemon, wait_until
from test_life import refused

MISTRAL = {"tiny": ROOT / "tests/golden/tiny-mistral"}  # context 512, window 13
PROMPT = [3 + 7 * i % 300 for i in range(300)]


def served(blocks: int) -> Daemon:
    """Blocks of 16 and chunks of 16: a sequence holds 4 blocks at most."""
    return Daemon(models=MISTRAL,
                  model_settings={"kv_blocks_count": blocks, "chunk_tokens_max": 16})


def generate(daemon) -> tuple:
    """The text of a stream that fills the context, and the blocks in use in its midst."""
    text, most, last = "", 0, None
    for message in daemon.inference().Generate(pb.GenerateRequest(
            model="tiny", token_ids=pb.TokenIds(ids=PROMPT), ignore_eos=True,
            sampling=pb.Sampling(temperature=0.8, seed=5)), timeout=60):
        text += "".join(choice.text for choice in message.choices)
        last = message
        if most == 0:
            most = daemon.model_status().kv_blocks_used
    assert last.choices[0].finish_reason == pb.FINISH_REASON_LENGTH
    assert (last.usage.prompt_tokens, last.usage.output_tokens) == (300, 212)
    return text, most


@pytest.mark.parametrize("blocks", [4, 5])
def test_a_stream_of_32_blocks_in_a_small_pool(blocks):
    with served(64) as daemon:
        expected, _ = generate(daemon)
    with served(blocks) as daemon:
        assert daemon.model_status().kv_blocks_count == blocks
        for _ in range(3):  # the second and third find the end of the first
            text, most = generate(daemon)
            assert text == expected and most <= 4
        wait_until("nothing is in use", lambda: daemon.model_status().kv_blocks_used == 0)


def test_a_pool_that_is_too_small_is_refused():
    daemon = Daemon(models=MISTRAL, start=False,
                    model_settings={"kv_blocks_count": 3, "chunk_tokens_max": 16})
    said = refused(daemon.config)
    daemon.stop()
    assert "kv_blocks_count is 3" in said and "one sequence may need 4 blocks of 16 tokens" in said

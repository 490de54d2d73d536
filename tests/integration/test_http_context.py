"""What the models of a turn saw, asked for afterwards and held against what they were sent."""

from typing import Any

import msgspec
import pytest

from tests.fakes.openai_server import FakeOpenAI

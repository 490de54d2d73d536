"""Refusals of real endpoints, in their own words: which field of the request they are about, if any."""

import json
from typing import Any

import pytest

from infrastructure.models.openai.refusals import FIELDS, rejected_field
from infrastructure.models.openai.response_format import SCHEMA, WITH_TOOLS

OLD = ("stream_options", "max_tokens", "temperature", "stream", "tools")
OUTPUT = ("stream", "json_schema", "response_format", "temperature")
NEW = ("stream_options", "max_completion_tokens", "temperature", "stream", "tools")


def said(message: str, **more: Any) -> str:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", **more}})


ABOUT_A_FIELD = {
    "OpenAI, the old limit": (
        said(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            param="max_tokens",
            code="unsupported_parameter",
        ),
        "max_tokens",
    ),
    "OpenAI, temperature": (
        said(
            "Unsupported value: 'temperature' does not support 0.2 with this model. "
            "Only the default (1) value is supported.",
            param="temperature",
            code="unsupported_value",
        ),
        "temperature",
    ),
    "OpenAI, an organization": (
        said("Your organization must be verified to stream this model.", param="stream", code="unsupported_value"),
        "stream",
    ),
    "Azure": (said("Unrecognized request argument supplied: stream_options"), "stream_options"),
    "Mistral": (
        json.dumps(
            {
                "object": "error",
                "message": {
                    "detail": [
                        {
                            "type": "extra_forbidden",
                            "loc": ["body", "stream_options"],
                            "msg": "Extra inputs are not permitted",
                            "input": {"include_usage": True},
                        }
                    ]
                },
            }
        ),
        "stream_options",
    ),
    "FastAPI": (
        json.dumps({"detail": [{"loc": ["body", "temperature"], "msg": "extra fields not permitted"}]}),
        "temperature",
    ),
    "FastAPI, as text": (json.dumps({"detail": "Streaming is not supported"}), "stream"),
    "pydantic, as text": (
        said("1 validation error for Request\ntemperature\n  Extra inputs are not permitted [type=extra_forbidden]"),
        "temperature",
    ),
    "Ollama": (said("registry.ollama.ai/library/gemma3:4b does not support tools"), "tools"),
    "OpenRouter": (said("No endpoints found that support tool use. To learn more, visit: https://x.y/z"), "tools"),
    "Groq": (said("`tools` is not supported with this model"), "tools"),
    "vLLM": (said('"auto" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set'), "tools"),
    "llama.cpp": (said("tools param requires --jinja flag"), "tools"),
    "Gemini, a model": (said("Function calling is not enabled for models/gemma-3-1b-it"), "tools"),
    "Gemini, a list": (
        json.dumps(
            [{"error": {"code": 400, "message": 'Invalid JSON payload. Unknown name "stream_options": no field.'}}]
        ),
        "stream_options",
    ),
    "Bedrock, the lesser loss": (said("This model doesn't support tool use in streaming mode."), "stream"),
    "Go": ('json: unknown field "stream_options"', "stream_options"),
    "Rust": (
        said("unknown field `stream_options`, expected one of `model`, `messages`, `stream`, `tools`"),
        "stream_options",
    ),
    "JSON schema": (said("Additional properties are not allowed ('stream_options' was unexpected)"), "stream_options"),
    "AJV": (
        json.dumps(
            [{"message": "must NOT have additional properties", "params": {"additionalProperty": "temperature"}}]
        ),
        "temperature",
    ),
    "Django": (json.dumps({"errors": {"stream_options": ["Unknown field."]}}), "stream_options"),
    "Python": (said("create() got an unexpected keyword argument 'stream_options'"), "stream_options"),
    "Kimi": (said("invalid temperature: only 1 is allowed for this model"), "temperature"),
    "Anthropic": (said("`temperature` is deprecated for this model."), "temperature"),
    "an error within an error": (said('{"detail": "temperature is not supported"}'), "temperature"),
    "plain text": ("Extra inputs are not permitted: tools", "tools"),
    "a suggestion": (said("property 'temperature' is unsupported, did you mean 'stream'?"), "temperature"),
    "not implemented": (json.dumps({"error": "stream not implemented"}), "stream"),
}

ABOUT_SOMETHING_ELSE = {
    "a path that is no path": json.dumps({"detail": [{"loc": [{"a": 1}, ["b"], None], "msg": "not permitted"}]}),
    "a value of the limit": said("max_tokens is too large: 5000. This model supports at most 4096 completion tokens"),
    "a value of the limit, not supported": said("This model does not support more than 4096 max_tokens"),
    "the window": said("This model's maximum context length is 8192 tokens. However, you requested 9000 tokens."),
    "a value of temperature": said("temperature must be between 0 and 1"),
    "a tool's name": said("Invalid 'tools[0].function.name': not allowed", param="tools[0].function.name"),
    "a tool's part": said("Unknown parameter: 'tools[0].function.strict'.", param="tools[0].function.strict"),
    "a tool's part, by its place": json.dumps(
        {
            "detail": [
                {"type": "extra_forbidden", "loc": ["body", "tools", 0, "function", "strict"], "msg": "Extra inputs"}
            ]
        }
    ),
    "a message, with an echo": json.dumps(
        {
            "detail": [
                {"type": "missing", "loc": ["body", "messages", 0], "msg": "not allowed", "input": {"temperature": 1}}
            ]
        }
    ),
    "a message's calls": said("messages.1.tool_calls: Extra inputs are not permitted"),
    "OpenAI, a result without its call": said(
        "Invalid parameter: messages with role 'tool' must be a response to a preceeding message with 'tool_calls'.",
        param="messages.[3].role",
    ),
    "OpenAI, a result of another call": said(
        "Invalid parameter: 'tool_call_id' of 'x' not found in 'tool_calls' of previous message.",
        param="messages.[3].tool_call_id",
    ),
    "Mistral, a call's id": said(
        "Tool call id was x but must be a-z, A-Z, 0-9, only these are allowed, with a length of 9."
    ),
    "Gemini, results and calls": said(
        "Invalid argument: Please ensure that the number of function response parts is equal to the number of function "
        "call parts of the function call turn."
    ),
    "many tools": said("Function calling with more than 128 tools is not supported"),
    "tools of one name": said("Invalid argument: tools contains duplicate names"),
    "a role": said("role 'tool' is not supported"),
    "a field that was not sent": said("Unknown parameter: 'seed'"),
    "another field, with a list": said(
        "unknown field `seed`, expected one of `model`, `stream`, `temperature`, `tools`"
    ),
    "images": said("This model does not support image input"),
    "the model": said("The model `gpt-9` does not exist", code="model_not_found"),
    "a page": "<html>404 not found</html>",
    "nothing": "",
    "something upstream": said("upstream error: service not available"),
    "the end of a stream": said("unexpected end of stream"),
    "nesting": "[" * 50_000,
}


@pytest.mark.parametrize(("body", "field"), ABOUT_A_FIELD.values(), ids=ABOUT_A_FIELD)
def test_a_refusal_that_is_about_a_field_names_it(body: str, field: str) -> None:
    assert rejected_field(body, OLD) == field
    assert rejected_field(body, [other for other in FIELDS if other not in {field, "tools"}]) is None


@pytest.mark.parametrize("body", ABOUT_SOMETHING_ELSE.values(), ids=ABOUT_SOMETHING_ELSE)
def test_a_refusal_that_is_about_something_else_names_none(body: str) -> None:
    assert rejected_field(body, OLD) is None
    assert rejected_field(body, NEW) is None


ABOUT_OUTPUT = {
    "OpenAI": (
        said(
            "Invalid parameter: 'response_format' of type 'json_schema' is not supported with this model. Learn more "
            "about supported models at the Structured Outputs guide: https://platform.openai.com/docs/guides",
            param="response_format",
        ),
        "json_schema",
    ),
    "Azure, an old version": (
        said("response_format value as json_schema is enabled only for api versions 2024-08-01-preview and later"),
        "json_schema",
    ),
    "Azure, the field": (said("Unrecognized request argument supplied: response_format"), "response_format"),
    "DeepSeek": (said("This response_format type is unavailable now", param=None), "json_schema"),
    "DeepSeek, 422": (
        "Failed to deserialize the JSON body: response_format.type `json_schema` is unavailable now",
        "json_schema",
    ),
    "Ark": (
        said(
            "The parameter `response_format.type` specified in the request are not valid: invalid value: "
            "`json_schema`, supported values are: `json_object` and `text`",
            param="response_format.type",
            code="InvalidParameter",
        ),
        "json_schema",
    ),
    "Groq": (
        said(
            "This model does not support response format `json_schema`. See supported models at "
            "https://console.groq.com/docs/structured-outputs#supported-models"
        ),
        "json_schema",
    ),
    "Groq, before it had schemas": (
        said(
            "'response_format' : one of the following must be satisfied[('response_format.type' : value is not one of "
            "the allowed values ['text']) OR ('response_format.type' : value is not one of the allowed values "
            "['json_object'])]"
        ),
        "json_schema",
    ),
    "Groq, a keyword": (
        said("invalid schema for response format: response_format/json_schema/next_step: minItems is not supported"),
        SCHEMA,
    ),
    "OpenRouter, OpenAI's words": (
        said(
            "Provider returned error",
            code=400,
            metadata={
                "raw": said(
                    "Invalid schema for response_format 'Refund': In context=(), 'additionalProperties' is required to "
                    "be supplied and to be false.",
                    param="response_format",
                ),
                "provider_name": "Azure",
            },
        ),
        SCHEMA,
    ),
    "vLLM, a keyword": (
        json.dumps(
            {
                "object": "error",
                "message": "The provided JSON schema contains features not supported by xgrammar.",
                "type": "BadRequestError",
                "code": 400,
            }
        ),
        SCHEMA,
    ),
    "llama.cpp, a schema": (said("Failed to initialize samplers: failed to parse grammar", code=400), SCHEMA),
    "Ollama, a schema": (said("invalid JSON schema in format"), SCHEMA),
    "Gemini, a schema": (
        json.dumps([{"error": {"code": 400, "message": "The specified schema has too many states for serving."}}]),
        SCHEMA,
    ),
    "llama.cpp, an old version": (said('Either "json_schema" or "grammar" can be specified, but not both'), SCHEMA),
    "llama.cpp, a type": (
        said('response_format type must be one of "text" or "json_object", but got: json_schema'),
        "json_schema",
    ),
    "pydantic, the type": (
        json.dumps(
            {
                "detail": [
                    {
                        "type": "literal_error",
                        "loc": ["body", "response_format", "type"],
                        "msg": "Input should be 'text' or 'json_object'",
                        "input": "json_schema",
                    }
                ]
            }
        ),
        "json_schema",
    ),
    "Mistral, the field": (
        json.dumps(
            {
                "object": "error",
                "message": {
                    "detail": [
                        {
                            "type": "extra_forbidden",
                            "loc": ["body", "response_format"],
                            "msg": "Extra inputs are not permitted",
                            "input": {"type": "json_schema"},
                        }
                    ]
                },
            }
        ),
        "response_format",
    ),
    "Rust": ("unknown field `response_format`, expected one of `model`, `temperature`", "response_format"),
    "Python": (said("create() got an unexpected keyword argument 'response_format'"), "response_format"),
}

ABOUT_OUTPUT_AND_TOOLS = {
    "Gemini": json.dumps(
        [
            {
                "error": {
                    "code": 400,
                    "message": "Function calling with a response mime type: 'application/json' is unsupported",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ]
    ),
    "Groq": said("'response_format` json_object cannot be combined with tool/function calling"),
    "Groq, later": said("json mode cannot be combined with tool/function calling"),
    "Cerebras": said('"tools" is incompatible with "response_format"'),
    "llama.cpp": said("Cannot use custom grammar constraints with tools."),
}

ONLY_OBJECTS = {
    "OpenAI": said("Invalid parameter: 'response_format' of type 'json_object' is not supported with this model."),
    "LM Studio": json.dumps({"error": "'response_format.type' must be 'json_schema' or 'text'"}),
    "Groq, a stream": said("response_format` does not support streaming"),
}
"""Refusals of `json_object`, after which nothing is left to try."""


@pytest.mark.parametrize(("body", "what"), ABOUT_OUTPUT.values(), ids=ABOUT_OUTPUT)
def test_a_refusal_of_structured_output_names_the_least_that_is_refused(body: str, what: str) -> None:
    assert rejected_field(body, OUTPUT) == what
    assert rejected_field(body, (*OUTPUT, "tools")) == what
    assert rejected_field(body, OLD) is None


@pytest.mark.parametrize("body", ABOUT_OUTPUT_AND_TOOLS.values(), ids=ABOUT_OUTPUT_AND_TOOLS)
def test_a_refusal_of_structured_output_with_tools_keeps_the_tools(body: str) -> None:
    assert rejected_field(body, (*OUTPUT, "tools")) == WITH_TOOLS


@pytest.mark.parametrize("body", ONLY_OBJECTS.values(), ids=ONLY_OBJECTS)
def test_a_refusal_of_json_objects_refuses_the_field(body: str) -> None:
    assert rejected_field(body, ("stream", "response_format")) == "response_format"


@pytest.mark.parametrize("body", ABOUT_SOMETHING_ELSE.values(), ids=ABOUT_SOMETHING_ELSE)
def test_no_other_refusal_takes_the_structured_output(body: str) -> None:
    assert rejected_field(body, (*OUTPUT, "tools")) is None
    assert rejected_field(said("Invalid schema for function 'look': not a JSON schema"), OUTPUT) is None


@pytest.mark.parametrize(("body", "field"), ABOUT_A_FIELD.values(), ids=ABOUT_A_FIELD)
def test_a_refusal_of_another_field_keeps_the_structured_output(body: str, field: str) -> None:
    assert rejected_field(body, (*OLD, "json_schema", "response_format")) == field

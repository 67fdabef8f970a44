"""A browser's tab without a browser: a websocket that speaks Streamlit's protocol to the Workbench."""

from __future__ import annotations

import asyncio
import html
import json
from collections.abc import Mapping
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import websockets
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

PATIENCE_SECONDS = 900.0
FINISHED = ForwardMsg.ScriptFinishedStatus.FINISHED_SUCCESSFULLY
METRICS = ("Reliability", "Generalization", "Locality", "Portability")


class Tab:
    """One session, from connecting to closing: `async with Tab(...) as tab`."""

    def __init__(self, address: str, link: Mapping[str, str]) -> None:
        self._address, self._link = address.replace("http", "ws", 1), urlencode(link)
        self._elements: dict[tuple[int, ...], Any] = {}

    async def __aenter__(self) -> Tab:
        self._socket = await websockets.connect(
            f"{self._address}/_stcore/stream", subprotocols=["streamlit"], max_size=None, open_timeout=60
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: Any, trace: TracebackType | None) -> None:
        await self._socket.close()

    async def run(self, button: str = "", **texts: str) -> None:
        """Run the page and wait until it is drawn and no job is awaited; press a button, with texts in fields."""
        message = BackMsg()
        message.rerun_script.query_string = self._link
        for key, text in texts.items():
            widget = message.rerun_script.widget_states.widgets.add()
            widget.id, widget.string_value = self._id(key), text
        if button:
            widget = message.rerun_script.widget_states.widgets.add()
            widget.id, widget.trigger_value = self._id(button), True
        await self._socket.send(message.SerializeToString())
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not self._take(await self._socket.recv()):
                pass

    def _take(self, data: Any) -> bool:
        """Note what a message draws; whether the page is complete."""
        message = ForwardMsg()
        message.ParseFromString(data)
        kind = message.WhichOneof("type")
        if kind == "new_session":
            self._elements.clear()
        elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
            self._elements[tuple(message.metadata.delta_path)] = message.delta.new_element
        return kind == "script_finished" and message.script_finished == FINISHED

    def _all(self, kind: str) -> list[Any]:
        drawn = sorted(self._elements.items())
        return [getattr(element, kind) for _, element in drawn if element.WhichOneof("type") == kind]

    def _id(self, key: str) -> str:
        for element in self._elements.values():
            found: str = getattr(getattr(element, element.WhichOneof("type")), "id", "")
            if found.endswith(f"-{key}"):
                return found
        raise ValueError(f"the page shows no {key!r}; it says: {'; '.join(self.complaints()) or 'nothing'}")

    def complaints(self) -> list[str]:
        """Errors and exceptions that the page shows."""
        alerts = [alert.body for alert in self._all("alert") if alert.format == alert.ERROR]
        return alerts + [exception.message for exception in self._all("exception")]

    def map(self) -> str:
        """The numbers of the heat map, as text; empty while there is none."""
        charts = self._all("plotly_chart")
        if not charts:
            return ""
        heat = json.loads(charts[0].spec)["data"][0]
        return json.dumps([heat.get(name) for name in ("z", "customdata", "text")])

    def edit(self) -> str:
        """What an edit did: its losses, four metrics, and texts before and after; empty while there is none."""
        metrics = {metric.label: metric for metric in self._all("metric")}
        losses = [list(metric.chart_data) for label, metric in metrics.items() if label.startswith("Loss")]
        scores = [metrics[name].body for name in METRICS if name in metrics]
        texts = [html.unescape(part.body) for part in self._all("html") if "<small>After" in part.body]
        return json.dumps([losses, scores, texts]) if len(scores) == len(METRICS) else ""

"""An HTTP/3 client on aioquic: fetches one page and writes it to a file. Arguments: host, port, CA file, output."""

import asyncio
import sys

from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration


class Fetch(QuicConnectionProtocol):
    """Asks once."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.http = H3Connection(self._quic)
        self.body = b""
        self.status = None
        self.done = asyncio.get_running_loop().create_future()

    async def get(self, host):
        stream = self._quic.get_next_available_stream_id()
        names = [(b":method", b"GET"), (b":scheme", b"https"), (b":authority", host.encode()), (b":path", b"/")]
        self.http.send_headers(stream, names, end_stream=True)
        self.transmit()
        await self.done

    def quic_event_received(self, event):
        for found in self.http.handle_event(event):
            if isinstance(found, HeadersReceived):
                self.status = dict(found.headers)[b":status"]
            if isinstance(found, DataReceived):
                self.body += found.data
            if getattr(found, "stream_ended", False) and not self.done.done():
                self.done.set_result(None)


async def main():
    host, port, authority, output = sys.argv[1:]
    configuration = QuicConfiguration(is_client=True, alpn_protocols=H3_ALPN)
    configuration.load_verify_locations(authority)
    async with connect(host, int(port), configuration=configuration, create_protocol=Fetch) as client:
        await asyncio.wait_for(client.get(host), 20)
        assert client.status == b"200", client.status
        with open(output, "wb") as file:
            file.write(client.body)


asyncio.run(main())

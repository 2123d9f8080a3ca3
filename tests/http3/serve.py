"""An HTTP/3 server on aioquic: one page, for the lab. Arguments: address, port, certificate, key, page."""

import asyncio
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ProtocolNegotiated

PAGE = open(sys.argv[5], "rb").read()


class Pages(QuicConnectionProtocol):
    """Answers every request with the page."""

    http = None

    def quic_event_received(self, event):
        if isinstance(event, ProtocolNegotiated):
            self.http = H3Connection(self._quic)
        if self.http is None:
            return
        for found in self.http.handle_event(event):
            if isinstance(found, HeadersReceived):
                headers = [(b":status", b"200"), (b"content-length", str(len(PAGE)).encode())]
                self.http.send_headers(found.stream_id, headers)
                self.http.send_data(found.stream_id, PAGE, end_stream=True)
        self.transmit()


async def main():
    configuration = QuicConfiguration(is_client=False, alpn_protocols=H3_ALPN)
    configuration.load_cert_chain(sys.argv[3], sys.argv[4])
    await serve(sys.argv[1], int(sys.argv[2]), configuration=configuration, create_protocol=Pages)
    print("ready", flush=True)
    await asyncio.Future()


asyncio.run(main())

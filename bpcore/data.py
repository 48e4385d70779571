"""More rows than memory holds: streams of blocks, and of files.  See docs/streams.md."""

from bpcore._files import files as files
from bpcore._stream import Stream as Stream

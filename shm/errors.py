"""What can go wrong with shared memory, as exceptions. Full and empty are no errors, but
answers."""


class ShmError(Exception):
    """Root of the errors of leftfold.shm."""


class SegmentExists(ShmError):
    """A segment of this name exists already."""


class SegmentMissing(ShmError):
    """There is no segment of this name, or its creator died before it was ready."""


class SegmentFull(ShmError):
    """The system has no room left in /dev/shm."""


class LayoutMismatch(ShmError):
    """The memory was laid out by another build, for another purpose, or for another generation."""


class RingBusy(ShmError):
    """Two threads use one end of a ring, or one doorbell, or a claim is still open."""


class RingCorrupt(ShmError):
    """The ring holds bytes that no producer of ours writes."""


class UsedAfterFork(ShmError):
    """A child of fork uses what its parent opened; it must open its own."""


class UsedAfterClose(ShmError):
    """An end of a ring, or a doorbell, is used after its close()."""


class DoorbellFailed(ShmError):
    """The kernel refused to open a semaphore or to wait."""

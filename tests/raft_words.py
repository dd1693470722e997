"""What a simulated cluster does, as lines of a play."""

from leftfold.raft import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    Heartbeat,
    HeartbeatReply,
    InstallSnapshot,
    InstallSnapshotReply,
    Membership,
    Message,
    Persist,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)


def describe(message: Message) -> str:
    """One message."""
    match message:
        case RequestVote():
            kind = "would you vote for me" if message.pre_vote else "vote for me"
            return (
                f"{kind} in term {message.term}? my log ends at "
                f"{message.last_index} of term {message.last_term}"
            )
        case RequestVoteReply():
            kind = "pre-vote" if message.pre_vote else "vote"
            return f"{kind} {'granted' if message.granted else 'refused'} (term {message.term})"
        case AppendEntries():
            return (
                f"{'bulk ' if message.bulk else ''}append {describe_entries(message.entries)} "
                f"after {message.prev_index} of term {message.prev_term}, "
                f"commit {message.commit} (term {message.term})"
            )
        case AppendEntriesReply():
            repairing = ", repairing" if message.repairing else ""
            if message.success:
                return f"have all up to {message.index}{repairing} (term {message.term})"
            return (
                f"cannot follow {message.index}, try {message.hint_index} of term "
                f"{message.hint_term}{repairing} (term {message.term})"
            )
        case Heartbeat():
            return (
                f"heartbeat, commit {message.commit}, round {message.round} (term {message.term})"
            )
        case HeartbeatReply():
            return f"heartbeat heard, round {message.round} (term {message.term})"
        case TimeoutNow():
            return f"campaign now (term {message.term})"
        case InstallSnapshot():
            name = f"snapshot {message.last_index} of term {message.last_term}"
            if not message.chunk:
                return f"how much have you of {name}? (term {message.term})"
            end = message.offset + len(message.chunk)
            what = f"{name}: bytes {message.offset}…{end} of {message.size}"
            return f"{what} (term {message.term})"
        case InstallSnapshotReply():
            what = (
                "is mine"
                if message.done
                else "refused"
                if message.refused
                else f"up to byte {message.offset}"
            )
            return f"snapshot {message.last_index} {what} (term {message.term})"


def describe_entries(entries: tuple[Entry, ...]) -> str:
    if not entries:
        return "nothing"
    first, last = entries[0].index, entries[-1].index
    return f"entry {first}" if first == last else f"entries {first}…{last}"


def describe_persist(persist: Persist) -> str:
    """One write."""
    parts = [f"#{persist.sequence}:"]
    for chunk in persist.chunks:
        end = chunk.offset + len(chunk.chunk)
        parts.append(f"snapshot {chunk.index} bytes {chunk.offset}…{end};")
    if persist.hard_state is not None:
        state = persist.hard_state
        parts.append(f"term {state.term}, vote {state.voted_for}, commit {state.commit};")
    if persist.truncate_from is not None:
        parts.append(f"remove from {persist.truncate_from};")
    if persist.restart is not None:
        rest = "the rest stays" if persist.restart.keep_suffix else "nothing else stays"
        parts.append(f"go on behind snapshot {persist.restart.index}, {rest};")
    if persist.entries:
        parts.append(f"{describe_entries(persist.entries)} of term {persist.entries[-1].term};")
    return " ".join(parts).removesuffix(";")


def describe_membership(membership: Membership) -> str:
    """Who counts: `1 2 3`, while joint `1 2 4 and 1 2 3`, with `+ 5` for learners."""

    def ids(some: frozenset[int]) -> str:
        return " ".join(map(str, sorted(some)))

    text = f"voters {ids(membership.voters)}"
    text += f" and {ids(membership.outgoing)}" if membership.outgoing else ""
    text += f", learners {ids(membership.learners)}" if membership.learners else ""
    return text + (f", joining {ids(membership.joining)}" if membership.joining else "")

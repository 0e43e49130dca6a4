# Everything that libnbd can tell of an export, and what comes back to each command and flag, as one line of JSON.
# nbdsh runs it: `h` is a handle, `nbd` the library.
import errno, json, os

MIB = 1 << 20


def ask(method, *args):
    """What a method returns; the name of the error if it fails, none if there is no answer."""
    try:
        return getattr(h, method)(*args)
    except nbd.Error as error:
        return errno.errorcode.get(error.errnum) if error.errnum else None


def told():
    exports, contexts = {}, []
    h.opt_list(lambda name, description: exports.update({name: description}))
    h.opt_list_meta_context(lambda name: contexts.append(name))
    h.opt_go()
    flags = ["cache", "df", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"]
    sizes = [nbd.SIZE_MINIMUM, nbd.SIZE_PREFERRED, nbd.SIZE_MAXIMUM]
    view = {flag: ask("can_" + flag) for flag in flags}
    view.update(
        protocol=h.get_protocol(),
        structured=h.get_structured_replies_negotiated(),
        tls=h.get_tls_negotiated(),
        rotational=h.is_rotational(),
        read_only=h.is_read_only(),
        size=h.get_size(),
        block_sizes=[h.get_block_size(size) for size in sizes],
        name=h.get_canonical_export_name(),
        description=ask("get_export_description"),
        exports=exports,
        contexts=contexts,
        allocation=h.can_meta_context("base:allocation"),
    )
    return view


def done():
    """One command after the other: none where it ended well, else its error."""
    h.set_strict_mode(0)
    data = b"x" * 4096
    steps = [
        ("write", "pwrite", data, 0),
        ("write fua", "pwrite", data, 4096, nbd.CMD_FLAG_FUA),
        ("write unaligned", "pwrite", b"x" * 100, 0),
        ("write beyond", "pwrite", data, h.get_size()),
        ("write unknown flag", "pwrite", data, 0, 1 << 15),
        ("flush", "flush"),
        ("trim", "trim", 4096, 2 * MIB),
        ("trim fua", "trim", 4096, 2 * MIB, nbd.CMD_FLAG_FUA),
        ("trim beyond", "trim", 4096, h.get_size() - 512),
        ("zero", "zero", 4096, 4 * MIB),
        ("zero fua", "zero", 4096, 4 * MIB, nbd.CMD_FLAG_FUA),
        ("zero no hole", "zero", 4096, 4 * MIB, nbd.CMD_FLAG_NO_HOLE),
        ("zero beyond", "zero", 4096, h.get_size()),
        ("cache", "cache", MIB, 0),
        ("cache beyond", "cache", MIB, h.get_size()),
    ]
    return {name: ask(method, *args) for name, method, *args in steps}


def read():
    """The chunks of a read over data and a hole, and of one that may not be cut up; the extents of the same range."""
    chunks, whole, extents, first = [], [], [], []
    kinds = {nbd.READ_DATA: "data", nbd.READ_HOLE: "hole", nbd.READ_ERROR: "error"}
    h.pread_structured(MIB, 0, lambda part, offset, kind, err: chunks.append(kinds[kind]))
    h.pread_structured(MIB, 0, lambda part, offset, kind, err: whole.append(kinds[kind]), nbd.CMD_FLAG_DF)
    h.block_status(h.get_size(), 0, lambda context, offset, entries, err: extents.extend(entries))
    one = lambda context, offset, entries, err: first.extend(entries)
    h.block_status(h.get_size(), 0, one, nbd.CMD_FLAG_REQ_ONE)
    return {
        "chunks": sorted(set(chunks)),
        "whole": whole,
        "first": first[:2],
        "extents": len(first) // 2,
        "begins": extents[:2],
        "beyond": ask("pread", 512, h.get_size()),
    }


h.add_meta_context("base:allocation")
h.set_full_info(True)
h.set_opt_mode(True)
h.connect_uri(os.environ["URI"])
view = {"told": told(), "done": done(), "read": read()}
h.shutdown()
print(json.dumps(view))

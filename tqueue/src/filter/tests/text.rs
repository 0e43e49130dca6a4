//! The text form: what is understood, what it says of itself, and what is said about what is not.

use std::fmt::Write;

use insta::assert_snapshot;
use proptest::prelude::*;

use crate::filter::FilterConfig;

/// What each line is read as.
fn show(lines: &[&str]) -> String {
    let mut text = String::new();
    for line in lines {
        match line.parse::<FilterConfig>() {
            Ok(config) => {
                let again: FilterConfig = config.to_string().parse().unwrap();
                assert_eq!(again.to_string(), config.to_string());
                writeln!(text, "{line} = {config}").unwrap();
            }
            Err(error) => writeln!(text, "{error}").unwrap(),
        }
    }
    text
}

#[test]
fn filters_are_read_and_say_what_they_are() {
    assert_snapshot!(show(&[
        "fault",
        "fault:rate=0.01,op=write,errno=EIO,range=1MiB-2MiB,seed=7",
        "fault:rate=0.5%,op=all,errno=5",
        "fault:op=read+flush,errno=1000",
        "latency:1ms",
        "latency:250us-1s,op=all,range=0-1GiB,seed=3",
        "trace",
        "trace:last=1000",
        "checksum",
        "checksum:size=100G",
    ]), @r"
    fault = fault:rate=1,op=read+write+discard+zero,errno=EIO,seed=0
    fault:rate=0.01,op=write,errno=EIO,range=1MiB-2MiB,seed=7 = fault:rate=0.01,op=write,range=1MiB-2MiB,errno=EIO,seed=7
    fault:rate=0.5%,op=all,errno=5 = fault:rate=0.005,op=all,errno=EIO,seed=0
    fault:op=read+flush,errno=1000 = fault:rate=1,op=read+flush,errno=1000,seed=0
    latency:1ms = latency:1ms,op=read+write+flush+discard+zero
    latency:250us-1s,op=all,range=0-1GiB,seed=3 = latency:250us-1s,op=all,range=0-1GiB,seed=3
    trace = trace:last=64
    trace:last=1000 = trace:last=1000
    checksum = checksum:size=4GiB
    checksum:size=100G = checksum:size=128GiB
    ");
}

#[test]
fn what_is_not_understood_names_the_field_and_the_way_out() {
    assert_snapshot!(show(&[
        "",
        "falut:rate=1",
        "fault:",
        "fault:,",
        "fault:rate",
        "fault:rate=2",
        "fault:rate=nan",
        "fault:rate=-1%",
        "fault:rate=0,rate=1",
        "fault:op=Write",
        "fault:op=",
        "fault:errno=EPERMANENT",
        "fault:errno=0",
        "fault:range=1M",
        "fault:range=2M-1M",
        "fault:range=1X-2X",
        "fault:seed=-1",
        "fault:depth=3",
        "latency",
        "latency:op=read",
        "latency:1",
        "latency:2h",
        "latency:5ms-1ms",
        "latency:1ms,2ms",
        "latency:1ms,rate=1",
        "trace:last=0",
        "trace:last=many",
        "trace:7",
        "checksum:size=1T",
        "checksum:size=0",
        "checksum:sectors=7",
    ]), @r#"
    bad filter: "": no such filter; there is fault, latency, trace and checksum
    bad filter: "falut": no such filter; there is fault, latency, trace and checksum
    fault: = fault:rate=1,op=read+write+discard+zero,errno=EIO,seed=0
    bad filter: fault: : a field is missing beside a comma; leave the comma out
    bad filter: fault: rate: no such field; there is rate, op, range, errno and seed
    bad filter: fault: rate=2: say a number from 0 to 1, or a percentage such as 0.5%
    bad filter: fault: rate=nan: say a number from 0 to 1, or a percentage such as 0.5%
    bad filter: fault: rate=-1%: say a number from 0 to 1, or a percentage such as 0.5%
    bad filter: fault: rate=1: it is given twice; say it once
    bad filter: fault: op=Write: say read, write, flush, discard, zero, prefetch, several as read+write, or all
    bad filter: fault: op=: say read, write, flush, discard, zero, prefetch, several as read+write, or all
    bad filter: fault: errno=EPERMANENT: say EIO, ENOSPC, EAGAIN, EBUSY, EINTR, ESTALE, ETIMEDOUT, ENOMEM, EROFS, EDQUOT, EFBIG, ENODEV, ENXIO, ENODATA, EILSEQ, EREMOTEIO, EOPNOTSUPP, EINVAL, or an error's number
    bad filter: fault: errno=0: say EIO, ENOSPC, EAGAIN, EBUSY, EINTR, ESTALE, ETIMEDOUT, ENOMEM, EROFS, EDQUOT, EFBIG, ENODEV, ENXIO, ENODATA, EILSEQ, EREMOTEIO, EOPNOTSUPP, EINVAL, or an error's number
    bad filter: fault: range=1M: say START-END in bytes or sizes such as 1MiB-2MiB, the end larger than the start
    bad filter: fault: range=2M-1M: say START-END in bytes or sizes such as 1MiB-2MiB, the end larger than the start
    bad filter: fault: range=1X-2X: say bytes, or a size such as 4K or 1MiB
    bad filter: fault: seed=-1: say a number from 0 to 18446744073709551615
    bad filter: fault: depth=3: no such field; there is rate, op, range, errno and seed
    bad filter: latency: says no time; say latency:1ms or latency:1ms-5ms
    bad filter: latency: says no time; say latency:1ms or latency:1ms-5ms
    bad filter: latency: 1: say a time with its unit, such as 250us, 1ms or 2s, up to 1h
    bad filter: latency: 2h: say a time with its unit, such as 250us, 1ms or 2s, up to 1h
    bad filter: latency: 5ms-1ms: say the shorter time first
    bad filter: latency: 2ms: it is given twice; say it once
    bad filter: latency: rate=1: no such field; there is a time, op, range and seed
    bad filter: trace: last=0: say a number from 1 to 65536
    bad filter: trace: last=many: say a number from 1 to 65536
    bad filter: trace: 7: no such field; there is last
    bad filter: checksum: size=1T: say a size from 1MiB to 256GiB
    bad filter: checksum: size=0: say a size from 1MiB to 256GiB
    bad filter: checksum: sectors=7: no such field; there is size
    "#);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(
        name in prop_oneof![Just(String::new()), "(fault|latency|trace|checksum):"],
        rest in prop_oneof!["\\PC*", "((op|range|seed|rate|errno|last|size)=)?[a-zA-Z0-9.%+,=-]{0,20}"],
    ) {
        if let Ok(config) = format!("{name}{rest}").parse::<FilterConfig>() {
            let again = config.to_string().parse::<FilterConfig>().unwrap();
            prop_assert_eq!(again.to_string(), config.to_string());
        }
    }
}

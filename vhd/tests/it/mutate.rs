//! Fuzz with right checksums: whatever the fields say, nothing panics, nothing is sized by a lie, and what opens for
//! writing can be written.

use proptest::prelude::*;
use vhd::layout::{DiskType, DynamicHeaderRepr, FooterRepr};
use vhd::{CreateOptions, Severity, create};

use crate::disk::Disk;
use crate::handmade::{Block, Foreign};
use crate::session::Session;

fn base(ours: bool) -> Vec<u8> {
    if !ours {
        let blocks = vec![
            Block {
                number: 1,
                present: 0x0F,
                byte: 7,
            },
            Block {
                number: 0,
                present: u64::MAX,
                byte: 9,
            },
        ];
        return Foreign {
            size: 8 * 4096,
            block_bytes: 4096,
            blocks,
        }
        .build();
    }
    let disk = Disk::new(Vec::new());
    create(
        &disk,
        &CreateOptions {
            block_bytes: 4096,
            ..CreateOptions::dynamic(8 * 4096, [3; 16], 5)
        },
    )
    .unwrap();
    let mut session = Session::open(disk, false).unwrap();
    session.write(4096, &[1; 4096 * 2]).unwrap();
    session.close().bytes()
}

/// A number that is likely to be trouble.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        prop::sample::select(vec![
            0,
            1,
            2,
            511,
            512,
            513,
            1536,
            4096,
            8192,
            1 << 21,
            1 << 31,
            u64::from(u32::MAX)
        ]),
        prop::sample::select(vec![
            1 << 32,
            1 << 40,
            1 << 63,
            u64::MAX,
            u64::MAX - 511,
            (1 << 41) - 512
        ]),
        0..100_000u64,
        any::<u64>(),
    ]
}

/// One lie.
#[derive(Clone, Debug)]
enum Lie {
    Footer { both: bool, field: u8, value: u64 },
    Header { field: u8, value: u64 },
    Word { at: u64, value: u32 },
    Cut(u64),
    Grow(u16),
}

fn lie() -> impl Strategy<Value = Lie> {
    prop_oneof![
        3 => (any::<bool>(), 0..9u8, number()).prop_map(|(both, field, value)| Lie::Footer { both, field, value }),
        3 => (0..6u8, number()).prop_map(|(field, value)| Lie::Header { field, value }),
        3 => (0..30_000u64, number()).prop_map(|(at, value)| Lie::Word { at, value: value as u32 }),
        1 => any::<u64>().prop_map(Lie::Cut),
        1 => any::<u16>().prop_map(Lie::Grow),
    ]
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + new.len()) {
        place.copy_from_slice(new);
    }
}

fn tell(bytes: &mut Vec<u8>, lie: &Lie) {
    match *lie {
        Lie::Footer { both, field, value } => {
            let end = bytes.len().saturating_sub(512);
            for at in if both { [0, end] } else { [end, end] } {
                if let Some(Ok(mut footer)) = bytes.get(at..at + 512).map(FooterRepr::parse) {
                    change_footer(&mut footer, field, value);
                    put(bytes, at, &footer.emit());
                }
            }
        }
        Lie::Header { field, value } => {
            if let Some(Ok(mut header)) = bytes.get(512..1536).map(DynamicHeaderRepr::parse) {
                change_header(&mut header, field, value);
                put(bytes, 512, &header.emit());
            }
        }
        Lie::Word { at, value } => put(bytes, at as usize & !3, &value.to_be_bytes()),
        Lie::Cut(at) => bytes.truncate((at % (bytes.len() as u64 + 1)) as usize),
        Lie::Grow(by) => bytes.resize(bytes.len() + usize::from(by), 0xB5),
    }
}

fn change_footer(footer: &mut FooterRepr, field: u8, value: u64) {
    match field {
        0 => footer.features = value as u32,
        1 => footer.version = value as u32,
        2 => footer.data_offset = value,
        3 => footer.current_size = value,
        4 => footer.current_size = value & !511,
        5 => footer.disk_type = DiskType::from(value as u32 % 7),
        6 => footer.creator.version = (value as u16, (value >> 16) as u16),
        7 => footer.timestamp = value as u32,
        _ => footer.hidden = value as u8,
    }
}

fn change_header(header: &mut DynamicHeaderRepr, field: u8, value: u64) {
    match field {
        0 => header.table_offset = value,
        1 => header.table_offset = value & !511,
        2 => header.max_table_entries = value as u32,
        3 => header.block_bytes = value as u32,
        4 => header.block_bytes = 1 << (value % 32),
        _ => {
            header.locators[0].code = 1;
            header.locators[0].data_length = value as u32;
            header.locators[0].data_offset = value;
        }
    }
}

/// Uses an image as far as it lets itself be used.
fn exercise(bytes: Vec<u8>) {
    let disk = Disk::new(bytes.clone());
    let report = vhd::check(&disk);
    let _ = (vhd::info(&disk), vhd::repair(&disk, true), report);
    if let Ok(mut session) = Session::open(disk, true) {
        let last = session.size - 512;
        for at in [0, 4096, last / 1024 * 512, last] {
            let _ = session.read(at.min(last), &mut [0; 512]);
        }
    }
    let Ok(mut session) = Session::open(Disk::new(bytes), false) else {
        return;
    };
    let last = session.size - 512;
    let is_dynamic = session.allocator.is_some();
    if is_dynamic && session.map().shape().block_bytes() > 1 << 16 {
        return; // right, but too large for a test
    }
    for at in [0, 4096, last] {
        session.write(at.min(last), &[0xC3; 512]).unwrap();
    }
    if is_dynamic {
        session.release(0).unwrap();
        session.write(0, &[0x3C; 512]).unwrap();
    }
    let disk = session.close();
    let report = vhd::check(&disk).unwrap();
    // A lost copy at 0 is for repair to mend.
    let wrong = |finding: &vhd::Finding| finding.severity == Severity::Error && finding.code != "footer-copy-lost";
    assert_eq!(report.findings.iter().find(|finding| wrong(finding)), None);
    let mut session = Session::open(disk, true).unwrap();
    let mut sector = [0; 512];
    session.read(0, &mut sector).unwrap();
    let expected = if is_dynamic { 0x3C } else { 0xC3 };
    assert_eq!(sector, [expected; 512]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn lying_images_do_no_harm(ours: bool, lies in prop::collection::vec(lie(), 1..4)) {
        let mut bytes = base(ours);
        for lie in &lies {
            tell(&mut bytes, lie);
        }
        exercise(bytes);
    }

    #[test]
    fn any_bytes_parse_or_do_not(bytes in prop::collection::vec(any::<u8>(), 0..2048), cookie: u8) {
        let mut bytes = bytes;
        let cookies: [&[u8]; 4] = [b"conectix", b"cxsparse", b"tdbatmap", b"v_poison"];
        put(&mut bytes, 0, cookies[usize::from(cookie) % 4]);
        let _ = (FooterRepr::parse(&bytes), DynamicHeaderRepr::parse(&bytes), vhd::layout::BatmapRepr::parse(&bytes));
        exercise(bytes);
    }
}

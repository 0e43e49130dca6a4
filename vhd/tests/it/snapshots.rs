//! What is written and what is said, as text.

use vhd::layout::{BatmapRepr, DynamicHeaderRepr, FooterRepr};
use vhd::{CreateOptions, create};

use crate::disk::Disk;
use crate::handmade::{Block, Foreign};

/// Bytes as text, 16 to a line: lines of zeros are left out, and of equal lines all but the first.
fn dump(bytes: &[u8]) -> String {
    let mut last: &[u8] = &[0; 16];
    let mut text = String::new();
    for (at, line) in bytes
        .chunks(16)
        .enumerate()
        .filter(|(_, line)| line.iter().any(|&byte| byte != 0))
    {
        if line != last {
            let hex: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
            text += &format!("{:5} {}\n", at * 16, hex.join(" "));
        }
        last = line;
    }
    text
}

fn new_image() -> Vec<u8> {
    let disk = Disk::new(Vec::new());
    create(&disk, &CreateOptions::dynamic(40 << 20, [0xAB; 16], 0x2F00_0000)).unwrap();
    disk.bytes()
}

#[test]
fn a_new_dynamic_image() {
    let bytes = new_image();
    insta::assert_snapshot!("new_dynamic_bytes", dump(&bytes));
    let footer = FooterRepr::parse(&bytes[..512]).unwrap();
    let header = DynamicHeaderRepr::parse(&bytes[512..1536]).unwrap();
    let batmap = BatmapRepr::parse(&bytes[4096 + 512..]).unwrap();
    let header_text = format!(
        "table at {}, {} entries of {}",
        header.table_offset, header.max_table_entries, header.block_bytes
    );
    insta::assert_snapshot!(
        "new_dynamic_fields",
        format!(
            "{} {} {:?} {:?} {}\n{header_text}\nbatmap at {}, {} sectors, sum {:#x}\n{} bytes",
            footer.disk_type,
            footer.creator,
            footer.geometry,
            footer.unique_id,
            footer.current_size,
            batmap.map_offset,
            batmap.map_sectors,
            batmap.checksum,
            bytes.len(),
        )
    );
    insta::assert_json_snapshot!("new_dynamic_info", vhd::info(&Disk::new(bytes.clone())).unwrap());
    insta::assert_json_snapshot!("new_dynamic_check", vhd::check(&Disk::new(bytes)).unwrap());
}

/// One image with as many things wrong as fit.
#[test]
fn a_check_names_everything_that_is_wrong() {
    let block = |number| Block {
        number,
        present: 0xFF,
        byte: 1,
    };
    let foreign = Foreign {
        size: 8 * 4096,
        block_bytes: 4096,
        blocks: vec![block(0), block(1), block(2), block(6)],
    };
    let mut bytes = foreign.build();
    let mut entry = |block: usize, value: u32| bytes[1536 + block * 4..][..4].copy_from_slice(&value.to_be_bytes());
    entry(1, 4 + 5); // one slot's last sector
    entry(3, 1); // the header
    entry(4, 0xFFFF_FFFE);
    entry(5, 4 + 9 * 3 + 2); // within block 6's slot, and beyond
    let len = bytes.len();
    bytes[len - 1] ^= 1;
    let report = vhd::check(&Disk::new(bytes.clone())).unwrap();
    assert_eq!(report.verdict(), vhd::Verdict::Corrupt);
    insta::assert_json_snapshot!("check_of_a_bad_image", report);
    let error = vhd::repair(&Disk::new(bytes), true).unwrap_err();
    insta::assert_snapshot!("repair_of_a_bad_image", error);
}

#[test]
fn a_repair_says_what_it_does() {
    let mut bytes = new_image();
    let end = bytes.len() - 512;
    bytes[end..].fill(0);
    let lost = Disk::new(bytes.clone());
    insta::assert_json_snapshot!("repair_footer", vhd::repair(&lost, false).unwrap());
    assert_eq!(lost.bytes(), new_image());
    let mut bytes = new_image();
    bytes[..512].fill(0);
    let lost = Disk::new(bytes);
    insta::assert_json_snapshot!("repair_copy", vhd::repair(&lost, false).unwrap());
    assert_eq!(lost.bytes(), new_image());
}

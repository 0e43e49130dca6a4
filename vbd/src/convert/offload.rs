//! Copying that the kernel does: sharing blocks between two files, or letting the file server copy.
//!
//! Sharing (reflink) is found out by trying it on a file without a name in the target's folder. Where it works,
//! `copy_file_range` shares what lies on the file system's block boundaries. Network file systems copy on their server. On all
//! others the call would copy through the page cache, one piece after the other and zeros too: the lanes do better.

use std::path::Path;

use iomgr_core::FileHandle;
use rustix::fs::{Mode, OFlags, copy_file_range, fstatfs, ioctl_ficlone, openat};
use serde::Serialize;

use crate::disk::Disk;

/// By which means data came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Means {
    /// Read and written.
    #[default]
    Copy,
    /// The file system shares the blocks (as `cp --reflink`); what does not lie on block boundaries is read and written.
    Reflink,
    /// The file server copies.
    ServerCopy,
}

/// File systems whose server copies when asked to: NFS, SMB, Ceph (`statfs`'s `f_type`).
const SERVERS: [u64; 4] = [0x6969, 0xff53_4d42, 0xfe53_4d42, 0x00c3_6400];
/// How much to ask for at once, so that progress is seen and an end is not far.
const PIECE_BYTES: u64 = 1 << 30;

/// A way to have data copied from one file into another.
#[derive(Debug)]
pub(crate) struct Offload {
    from: FileHandle,
    to: FileHandle,
    means: Means,
    /// Only what lies on multiples of this, in both files, is worth a call.
    align: u64,
}

impl Offload {
    /// Is there one from the disk `from` into `to`, a disk that is one run of a file in `folder`?
    pub(crate) fn find(from: &Disk, to: &Disk, folder: &Path) -> Option<Self> {
        let (from, to) = (from.regular_file()?, to.plain_file()?);
        let target = fstatfs(to.fd()?).ok()?;
        let block = u64::try_from(target.f_bsize).ok()?.max(512);
        let (means, align) = if can_share(&from, folder) {
            (Means::Reflink, block)
        } else if SERVERS.contains(&u64::try_from(target.f_type).ok()?) {
            (Means::ServerCopy, 4096)
        } else {
            return None;
        };
        Some(Self { from, to, means, align })
    }

    pub(crate) fn means(&self) -> Means {
        self.means
    }

    /// The part of `len` bytes, at `from` in the one file and `to` in the other, that is worth a call: how many bytes before it
    /// are not, and how many are. `None`: none is.
    pub(crate) fn part(&self, from: u64, to: u64, len: u64) -> Option<(u64, u64)> {
        if from % self.align != to % self.align {
            return None;
        }
        let head = from.next_multiple_of(self.align) - from;
        let body = len.checked_sub(head)? / self.align * self.align;
        (body > 0).then_some((head, body.min(PIECE_BYTES)))
    }

    /// Has bytes copied; says how many came over, from the first. Anything but some is an error, after which it is not tried again.
    pub(crate) fn copy(&self, from: u64, to: u64, len: u64) -> std::io::Result<u64> {
        let fd = |file: &FileHandle| file.fd().map(|fd| fd.try_clone_to_owned());
        let (Some(source), Some(target)) = (fd(&self.from), fd(&self.to)) else {
            return Err(std::io::ErrorKind::Unsupported.into());
        };
        let (source, target, mut off_in, mut off_out) = (source?, target?, from, to);
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let copied = copy_file_range(source, Some(&mut off_in), target, Some(&mut off_out), len)?;
        match copied as u64 {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            copied => Ok(copied),
        }
    }
}

fn can_share(from: &FileHandle, folder: &Path) -> bool {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let Ok(probe) = openat(rustix::fs::CWD, folder, flags, Mode::RUSR | Mode::WUSR) else {
        return false;
    };
    from.fd().is_some_and(|from| ioctl_ficlone(&probe, from).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offload(from: &Path, to: &Path) -> Offload {
        let open = |path| {
            let file = std::fs::OpenOptions::new().read(true).write(true).open(path);
            FileHandle::new(file.unwrap())
        };
        Offload {
            from: open(from),
            to: open(to),
            means: Means::ServerCopy,
            align: 4096,
        }
    }

    #[test]
    fn only_whole_blocks_are_worth_a_call() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        std::fs::write(&path, []).unwrap();
        let offload = offload(&path, &path);
        assert_eq!(offload.part(512, 4096 + 512, 8192), Some((3584, 4096)));
        assert_eq!(offload.part(0, 512, 8192), None);
        assert_eq!(offload.part(512, 512, 4096), None);
        assert_eq!(offload.part(512, 512, 100), None);
        assert_eq!(offload.part(0, 0, 4 << 30), Some((0, PIECE_BYTES)));
    }

    #[test]
    fn bytes_come_over_and_nothing_else_changes() {
        let dir = tempfile::tempdir().unwrap();
        let [from, to] = ["a", "b"].map(|name| dir.path().join(name));
        std::fs::write(&from, [7; 12288]).unwrap();
        std::fs::write(&to, [1; 12288]).unwrap();
        let offload = offload(&from, &to);
        let copied = offload.copy(0, 4096, 4096).unwrap();
        assert_eq!(copied, 4096);
        let expected = [[1; 4096], [7; 4096], [1; 4096]].concat();
        assert!(std::fs::read(&to).unwrap() == expected);
        assert!(
            offload.copy(1 << 20, 0, 4096).is_err(),
            "behind the end there is nothing"
        );
    }
}

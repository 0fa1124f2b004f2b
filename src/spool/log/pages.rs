//! Reading a file whose disk may not give all of it any more.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::PAGE;

/// Fills the buffer from `position` on. Where the disk cannot give a page there are zeros: they are no record, so what
/// was there is found to be damaged like anything else, and the rest of the file can still be read. Gives how many
/// pages that were.
pub(super) fn read_at(file: &File, buffer: &mut [u8], position: u64) -> io::Result<usize> {
    match read_exact(file, buffer, position) {
        Err(error) if is_lost(&error) => page_by_page(file, buffer, position),
        read => read.map(|()| 0),
    }
}

/// One page that cannot be read fails the whole reading that it is in.
fn page_by_page(file: &File, mut buffer: &mut [u8], mut position: u64) -> io::Result<usize> {
    let mut lost = 0;
    while !buffer.is_empty() {
        let left_of_page = PAGE - (position % PAGE as u64) as usize;
        let (page, rest) = buffer.split_at_mut(left_of_page.min(buffer.len()));
        match read_exact(file, page, position) {
            Err(error) if is_lost(&error) => {
                page.fill(0);
                lost += 1;
            }
            read => read?,
        }
        position += page.len() as u64;
        buffer = rest;
    }
    Ok(lost)
}

/// What the system says of a sector that cannot be read, or whose checksum is wrong.
fn is_lost(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error())
}

fn read_exact(file: &File, buffer: &mut [u8], position: u64) -> io::Result<()> {
    #[cfg(test)]
    crate::spool::testing::fail_on_lost_pages(file, buffer.len(), position)?;
    file.read_exact_at(buffer, position)
}

//go:build no_fs_access

package waf

// Files says that Coraza was built so that it writes what is uploaded into files: then it must not run where no file may be opened.
const Files = false

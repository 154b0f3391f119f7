package bulwark

import (
	"fmt"
	"strings"
)

// AppName is the name of an app, unique over an installation: a DNS label of 1 to 40 characters, a–z, 0–9 and "-",
// beginning with a letter. It becomes part of a host name, a git address and a file name, and is safe in all three.
type AppName string

// ProcessType is a name on the left side of a Procfile line, such as "web" or "worker": 1 to 30 characters, a–z, 0–9
// and "-", beginning with a letter.
type ProcessType string

// ProcessWeb is the process type that receives HTTP requests; ProcessRelease is the one that runs once before a
// release is promoted and is never scaled; ProcessRun is what a one-off instance (bulwark run) goes by.
const (
	ProcessWeb     ProcessType = "web"
	ProcessRelease ProcessType = "release"
	ProcessRun     ProcessType = "run"
)

// ConfigName is the name of a config variable as POSIX understands an environment variable's: a letter or "_", then
// letters, digits or "_", at most 128 characters. Names that begin with "BULWARK_" belong to the platform.
type ConfigName string

// HostName is a DNS host name in lower case without a trailing dot, at most 253 characters, no wildcard, no address.
type HostName string

// InstallationName is the name of one installation of Bulwark on a machine: a DNS label of at most 15 characters, so
// that it also fits into the name of a network interface's namespace or a control group.
type InstallationName string

// Person is the pseudonym under which a person is known to the ledger and the audit record: "p_" and an id. The name
// that belongs to it is kept apart.
type Person = PersonID

// OrgName is the name of an organisation, unique over an installation: a DNS label of at most 40 characters.
type OrgName string

// ProjectName is the name of a project, unique within its organisation: a DNS label of at most 40 characters.
type ProjectName string

// ParseOrgName checks s.
func ParseOrgName(s string) (OrgName, error) { return OrgName(s), label("organisation's name", s, 40) }

// ParseProjectName checks s.
func ParseProjectName(s string) (ProjectName, error) {
	return ProjectName(s), label("project's name", s, 40)
}

// ParseAppName checks s. The error says what a name may be.
func ParseAppName(s string) (AppName, error) {
	if err := label("app name", s, 40); err != nil {
		return "", err
	}
	switch s {
	case "api", "www", "bulwark", "git", "localhost":
		return "", Invalid(fmt.Sprintf("The app name %q is reserved.", s), "Choose another name.")
	}
	return AppName(s), nil
}

// ParseProcessType checks s.
func ParseProcessType(s string) (ProcessType, error) {
	if err := label("process type", s, 30); err != nil {
		return "", err
	}
	return ProcessType(s), nil
}

// ParseInstallationName checks s.
func ParseInstallationName(s string) (InstallationName, error) {
	if err := label("installation name", s, 15); err != nil {
		return "", err
	}
	return InstallationName(s), nil
}

// ParseConfigName checks s.
func ParseConfigName(s string) (ConfigName, error) {
	if s == "" || len(s) > 128 {
		return "", Invalid(fmt.Sprintf("The config name %s is not between 1 and 128 characters long.", quote(s)), "")
	}
	for i := range len(s) {
		c := s[i]
		if !(c == '_' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || i > 0 && c >= '0' && c <= '9') {
			return "", Invalid(fmt.Sprintf("The config name %s has %s at position %d.", quote(s), quote(s[i:i+1]), i+1),
				"Use letters, digits and \"_\", and begin with a letter, for example DATABASE_URL.")
		}
	}
	if strings.HasPrefix(s, "BULWARK_") {
		return "", Invalid(fmt.Sprintf("Config names that begin with BULWARK_ belong to the platform, so %s cannot be set.", s), "")
	}
	if s == "PORT" {
		return "", Invalid("PORT is given by the platform and cannot be set.", "Let the app listen on the PORT that it is given.")
	}
	return ConfigName(s), nil
}

// ParseHostName checks s after folding it to lower case and dropping one trailing dot.
func ParseHostName(s string) (HostName, error) {
	name := strings.TrimSuffix(strings.ToLower(s), ".")
	bad := func(why string) (HostName, error) {
		return "", Invalid(fmt.Sprintf("The host name %s %s.", quote(s), why), "Give a name such as shop.example.org.")
	}
	if name == "" || len(name) > 253 {
		return bad("is not between 1 and 253 characters long")
	}
	labels := strings.Split(name, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 {
			return bad("has a part that is empty or longer than 63 characters")
		}
		for i := range len(l) {
			c := l[i]
			if !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' && i > 0 && i < len(l)-1) {
				return bad("has a character that is not a letter, a digit or an inner \"-\"")
			}
		}
	}
	// A last label of digits only would be read as an IPv4 address by browsers (WHATWG URL, "ends in a number").
	last := labels[len(labels)-1]
	if strings.Trim(last, "0123456789") == "" {
		return bad("ends in a number, so it reads as an address")
	}
	return HostName(name), nil
}

// ParseHostPattern is ParseHostName for what may also be "*." and a host name of two labels or more, which stands for every name that has one label more.
func ParseHostPattern(s string) (HostName, error) {
	below, wild := strings.CutPrefix(s, "*.")
	name, err := ParseHostName(below)
	if err != nil || !wild {
		return name, err
	}
	if !strings.Contains(string(name), ".") || len(name) > 251 {
		return "", Invalid(fmt.Sprintf("The name %s stands for too much.", quote(s)), "Give one such as *.example.org.")
	}
	return "*." + name, nil
}

// Wildcard returns what a pattern's names have after their first label, and whether n is a pattern.
func (n HostName) Wildcard() (below HostName, is bool) {
	rest, is := strings.CutPrefix(string(n), "*.")
	return HostName(rest), is
}

// Above returns what a host name has after its first label; empty if it has but one, or the first is not well formed.
func (n HostName) Above() HostName {
	first, rest, _ := strings.Cut(string(n), ".")
	if first == "" || len(first) > 63 || first[0] == '-' || first[len(first)-1] == '-' {
		return ""
	}
	return HostName(rest)
}

// label checks the common form: a–z, 0–9, "-" inside, beginning with a letter.
func label(what, s string, most int) error {
	hint := fmt.Sprintf("Use 1 to %d of the characters a–z, 0–9 and \"-\", beginning with a letter, not ending with \"-\".", most)
	if s == "" {
		return Invalid(fmt.Sprintf("The %s is empty.", what), hint)
	}
	if len(s) > most {
		return Invalid(fmt.Sprintf("The %s %s is longer than %d characters.", what, quote(s), most), hint)
	}
	for i := range len(s) {
		c := s[i]
		letter := c >= 'a' && c <= 'z'
		inner := c >= '0' && c <= '9' || c == '-' && i < len(s)-1
		if !letter && !(inner && i > 0) {
			return Invalid(fmt.Sprintf("The %s %s is not well formed.", what, quote(s)), hint)
		}
	}
	return nil
}

// quote shows s in a message: escaped, so that it cannot drive a terminal, and cut, so that it cannot flood one.
func quote(s string) string {
	if len(s) > 60 {
		return fmt.Sprintf("%+q…", s[:60])
	}
	return fmt.Sprintf("%+q", s)
}

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseOrgName.
func (n *OrgName) UnmarshalText(b []byte) error { return parseInto(n, b, ParseOrgName) }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseProjectName.
func (n *ProjectName) UnmarshalText(b []byte) error { return parseInto(n, b, ParseProjectName) }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseAppName.
func (n *AppName) UnmarshalText(b []byte) error { return parseInto(n, b, ParseAppName) }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseProcessType.
func (t *ProcessType) UnmarshalText(b []byte) error { return parseInto(t, b, ParseProcessType) }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseConfigName.
func (n *ConfigName) UnmarshalText(b []byte) error { return parseInto(n, b, ParseConfigName) }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseHostPattern.
func (n *HostName) UnmarshalText(b []byte) error { return parseInto(n, b, ParseHostPattern) }

// UnmarshalText implements [encoding.TextUnmarshaler] by ParseInstallationName.
func (n *InstallationName) UnmarshalText(b []byte) error {
	return parseInto(n, b, ParseInstallationName)
}

func parseInto[T any](dst *T, b []byte, parse func(string) (T, error)) error {
	v, err := parse(string(b))
	if err != nil {
		return err
	}
	*dst = v
	return nil
}

package processor

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/redpanda-data/benthos/v4/public/service"

	"github.com/tandemipc/tandem/drivers/shm"
	"github.com/tandemipc/tandem/worker"
)

// Names of fields.
const (
	fieldName        = "name"
	fieldArgs        = "args"
	fieldEnv         = "env"
	fieldDir         = "dir"
	fieldSelf        = "self"
	fieldMethod      = "method"
	fieldDriver      = "driver"
	fieldWorkers     = "workers"
	fieldConcurrency = "concurrency"
	fieldTimeout     = "timeout"
	fieldIdempotent  = "idempotent"
	fieldAttempts    = "attempts"
	fieldHeartbeat   = "heartbeat"
	fieldMetadata    = "metadata"
)

// socketDriver is the value of the field driver for the socket driver.
const socketDriver = "socket"

// config is what a user has configured.
type config struct {
	command     *exec.Cmd
	method      string
	driver      string
	workers     int
	concurrency int // 0 means that of the pool
	timeout     time.Duration
	idempotent  bool
	attempts    int
	heartbeat   time.Duration
	metadata    *service.MetadataExcludeFilter
}

// Spec returns the fields of the processor, their descriptions and checks.
func Spec() *service.ConfigSpec {
	return service.NewConfigSpec().
		Categories("Integration").
		Summary("Runs batches of messages through worker processes, by shared memory or a socket.").
		Description(`
Each batch is one call of a worker, which gets the contents and the metadata of the messages, and returns what has changed: contents, metadata, errors of single messages, messages that are dropped or that have become several. All threads of the pipeline share the workers of a processor; a batch goes to the worker that has the fewest, and waits while all are busy.

A worker that dies takes nothing with it but its own calls, and is started again. The batch that it had goes to another worker, unless `+"`idempotent`"+` is false or `+"`attempts`"+` are used up; then its messages continue unchanged and are marked as failed. So are single messages whose handler fails. What a batch has become is acknowledged as any other: when the outputs have taken it.

A worker is a Go program that registers handlers with the package github.com/tandemipc/tandem/examples/benthos/batch.`).
		Fields(
			service.NewStringField(fieldName).
				Description("The program of the workers, a path or a name to be found in PATH. Either `name` or `self` is needed.").
				Example("./my-worker").
				Default(""),
			service.NewStringListField(fieldArgs).
				Description("Arguments of the program.").
				Example([]string{"-model", "large"}).
				Default([]any{}),
			service.NewStringMapField(fieldEnv).
				Description("Environment variables of the program, in addition to those of this process.").
				Example(map[string]any{"GOMEMLIMIT": "256MiB"}).
				Advanced().
				Default(map[string]any{}),
			service.NewStringField(fieldDir).
				Description("The directory in which the program runs. The default is that of this process.").
				Advanced().
				Default(""),
			service.NewStringField(fieldSelf).
				Description("The name of a worker that is part of this program, as given to worker.Main, instead of `name`.").
				Example("demo").
				Advanced().
				Default(""),
			service.NewStringField(fieldMethod).
				Description("The name of the workers' handler.").
				Examples("parse", "enrich").
				LintRule(`root = if this == "" { [ "a method needs a name" ] }`).
				Default("process"),
			service.NewStringEnumField(fieldDriver, shm.Name, socketDriver).
				Description("How batches cross: through shared memory (Linux) or a Unix socket.").
				Default(shm.Name),
			service.NewIntField(fieldWorkers).
				Description("How many worker processes there are.").
				LintRule(atLeast(1)).
				Default(1),
			service.NewIntField(fieldConcurrency).
				Description("How many batches each worker has at a time. 0 stands for as many as there are processors, and 1 suits programs that do one thing at a time. No more batches come than the pipeline has threads.").
				LintRule(atLeast(0)).
				Default(0),
			service.NewDurationField(fieldTimeout).
				Description("How long a batch may take, with the time that it waits for a worker. A batch that takes longer is sent again, as if its worker had died. `0s` stands for no timeout.").
				LintRule(duration).
				Example("500ms").
				Default("30s"),
			service.NewBoolField(fieldIdempotent).
				Description("Whether a batch may be sent again of which it is not known whether a worker has handled it. Messages of a stream may come more than once in any case, for an input sends again what an output has not taken. So only handlers that must not even do that for the death of a worker need `false`.").
				Default(true),
			service.NewIntField(fieldAttempts).
				Description("How often a batch is sent in all before its messages are marked as failed. So a message that ends its workers ends so many. It does not count that a worker refuses a batch.").
				LintRule(atLeast(1)).
				Default(3),
			service.NewDurationField(fieldHeartbeat).
				Description("After which time at most a worker is killed that shows no sign of life. Handlers may take longer than that: it is about processes that are stopped or stuck. `0s` stands for never.").
				LintRule(duration).
				Advanced().
				Default("5s"),
			service.NewMetadataExcludeFilterField(fieldMetadata).
				Description("Which metadata is not sent to the workers. It stays with the messages all the same."),
		).
		LintRule(`root = if this.name.or("") == "" && this.self.or("") == "" {
  [ "a program is needed: set name, or self for a worker that is part of this program" ]
} else if this.name.or("") != "" && this.self.or("") != "" {
  [ "name and self exclude each other" ]
}`).
		Example("Parse log lines", "Lines that the workers cannot parse are logged and dropped; all others go on as JSON.", `
pipeline:
  processors:
    - tandem:
        name: ./log-worker
        method: parse
        workers: 4
        timeout: 5s
    - catch:
        - log:
            level: WARN
            message: "${! error() }"
        - mapping: root = deleted()
`).
		Example("One by one after a crash", "A message that ends its worker takes the others of its batch along. Here each of them is tried by itself then, and only the one that is to blame is left with an error. Both places use the same workers.", `
pipeline:
  processors:
    - resource: workers
    - catch:
        - catch: [] # forgets the error
        - resource: workers
        - catch:
            - mapping: 'meta to_blame = error()'

processor_resources:
  - label: workers
    tandem:
      name: ./log-worker
      attempts: 2
`)
}

// atLeast returns a rule for a field with a number.
func atLeast(n int) string {
	return fmt.Sprintf(`root = if this.type() == "number" && this < %d { [ "must be at least %d, and is %%v".format(this) ] }`, n, n)
}

// duration is a rule for a field with a duration.
const duration = `root = if this.type() == "string" && this.parse_duration().catch(-1) < 0 { [ "must be a duration of 0s or more such as 500ms or 1m, and is %v".format(this) ] }`

// parse returns the configuration. It checks what Spec checks, for a user may have switched that off.
func parse(from *service.ParsedConfig) (c config, err error) {
	get := func(field string, f func(path ...string) error) {
		if err == nil {
			if err = f(field); err != nil {
				err = fmt.Errorf("tandem: field %s: %w", field, err)
			}
		}
	}
	var name, dir, self string
	var args []string
	var env map[string]string
	get(fieldName, set(&name, from.FieldString))
	get(fieldArgs, set(&args, from.FieldStringList))
	get(fieldEnv, set(&env, from.FieldStringMap))
	get(fieldDir, set(&dir, from.FieldString))
	get(fieldSelf, set(&self, from.FieldString))
	get(fieldMethod, set(&c.method, from.FieldString))
	get(fieldDriver, set(&c.driver, from.FieldString))
	get(fieldWorkers, set(&c.workers, from.FieldInt))
	get(fieldConcurrency, set(&c.concurrency, from.FieldInt))
	get(fieldTimeout, set(&c.timeout, from.FieldDuration))
	get(fieldIdempotent, set(&c.idempotent, from.FieldBool))
	get(fieldAttempts, set(&c.attempts, from.FieldInt))
	get(fieldHeartbeat, set(&c.heartbeat, from.FieldDuration))
	get(fieldMetadata, set(&c.metadata, from.FieldMetadataExcludeFilter))
	switch {
	case err != nil:
		return c, err
	case (name == "") == (self == ""):
		return c, fmt.Errorf("tandem: either %s or %s is needed", fieldName, fieldSelf)
	case c.method == "":
		return c, fmt.Errorf("tandem: field %s is empty", fieldMethod)
	case c.driver != shm.Name && c.driver != socketDriver:
		return c, fmt.Errorf("tandem: field %s is %q, and neither %s nor %s", fieldDriver, c.driver, shm.Name, socketDriver)
	case c.workers < 1 || c.attempts < 1 || c.concurrency < 0 || c.timeout < 0 || c.heartbeat < 0:
		return c, fmt.Errorf("tandem: fields %s and %s have to be 1 or more, and %s, %s and %s 0 or more",
			fieldWorkers, fieldAttempts, fieldConcurrency, fieldTimeout, fieldHeartbeat)
	}
	if self != "" {
		c.command = worker.Self(self)
		c.command.Args = append(c.command.Args, args...)
	} else {
		c.command = exec.Command(name, args...)
	}
	c.command.Dir = dir
	if len(env) > 0 {
		if c.command.Env == nil {
			c.command.Env = os.Environ()
		}
		for key, v := range env {
			c.command.Env = append(c.command.Env, key+"="+v)
		}
	}
	return c, nil
}

// set returns a function that sets to what f returns.
func set[T any](to *T, f func(path ...string) (T, error)) func(path ...string) error {
	return func(path ...string) (err error) {
		*to, err = f(path...)
		return err
	}
}

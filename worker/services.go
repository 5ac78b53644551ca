package worker

import (
	"github.com/tandemipc/tandem/drivers"
	"github.com/tandemipc/tandem/drivers/socket"
)

// Services lists the processes that listen now in the directory of services, whatever their driver: under names
// that have no slash and do not begin with @. The directory is tandem in XDG_RUNTIME_DIR, or, if that is not
// set or not private to this user, tandem/services in the user's cache directory. The list is sorted by
// name. A service that has just ended is not in it. The services see of it at most a
// connection that ends at once.
func Services() ([]drivers.Service, error) { return socket.Services() }

/*
 * Writes the annotations of the open image as GeoJSON, for
 *     wsiseg review read results/a.svs.wsiseg a.svs.review.geojson
 *
 * All annotations with an area are written: the locked squares of the review, its nuclei as they
 * are now, and those drawn by hand.  Detections are left out; wsiseg passes over what lies outside
 * the squares.  Delete the square of a place you did not look at before you export.
 *
 * QuPath: Automate > Script editor > open this file > Run.  Command line (one file an image, in
 * a folder that exists):
 *     QuPath script --project p.qpproj --image a.svs --args FOLDER export_review.groovy
 */
import qupath.fx.dialogs.FileChoosers
import qupath.lib.io.PathIO

import static qupath.lib.scripting.QP.*

def server = getCurrentServer()
if (server == null)
    throw new IllegalStateException('No image is open; open a slide first')

def file = server.getURIs().collect { new File(it.getPath() ?: '').getName() }.find { !it.isEmpty() }
String name = (file ?: server.getMetadata().getName()).replaceAll(/[\\\/:*?"<>|]/, '_') + '.review.geojson'
File target
if (args)
    target = new File(args[0]).isDirectory() ? new File(args[0], name) : new File(args[0])
else
    target = FileChoosers.promptToSaveFile('Reviewed nuclei of this image', new File(name), FileChoosers.createExtensionFilter('GeoJSON', '.geojson'))
if (target == null)
    return

def annotations = getAnnotationObjects().findAll { it.getROI() != null && it.getROI().isArea() }
int squares = annotations.count { it.getName() != null && it.getName().startsWith('review ') }
if (squares == 0)
    throw new IllegalStateException('No square of a review is in this image; squares are called "review 01" and so on')
PathIO.exportObjectsAsGeoJSON(target.toPath(), annotations, PathIO.GeoJsonExportOptions.FEATURE_COLLECTION)
println(target.getPath() + ': ' + squares + ' squares, ' + (annotations.size() - squares) + ' other annotations')
